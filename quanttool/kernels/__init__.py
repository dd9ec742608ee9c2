"""Numba leaves: arrays in, arrays out. No strings, no files, no classes."""

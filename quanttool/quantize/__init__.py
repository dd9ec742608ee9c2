"""Quantizing a file: the plan (pure) and the run that carries it out."""

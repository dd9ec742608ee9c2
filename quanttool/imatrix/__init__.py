"""Importance of input channels: the data, its files, collecting it."""

from .data import Entry, Imatrix
from .files import load, save

__all__ = ["Entry", "Imatrix", "load", "save"]

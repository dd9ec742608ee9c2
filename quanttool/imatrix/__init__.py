"""Importance of input channels: the data, its files, merging, statistics, collecting it."""

from .data import Entry, Imatrix
from .files import load, save
from .merge import merge

__all__ = ["Entry", "Imatrix", "load", "merge", "save"]

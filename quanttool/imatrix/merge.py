"""Several imatrix files as one, each row of activations counting the same."""

from collections.abc import Sequence

import numpy as np

from ..errors import ImatrixError
from .data import Entry, Imatrix


def merge(parts: Sequence[Imatrix], names: Sequence[str]) -> Imatrix:
    """Add up imatrices of the same model.

    names: what to call the parts in an error. All counts must be in rows (`Imatrix.in_rows` for legacy files). A weight
    that only some parts have is kept. The result's chunks have the first part's size. Signed sums survive where
    every part that has the weight has them, provenance where all parts agree.

    Raises ImatrixError if two parts have no weight in common, or disagree on a weight's shape.
    """
    agreed = set.intersection(*(set(part.provenance.items()) for part in parts))
    merged = Imatrix(chunk_size=parts[0].chunk_size, provenance=dict(agreed))
    for part, name in zip(parts, names, strict=True):
        if not part.chunk_size:
            raise ImatrixError(f"{name}: its counts are calls of unknown size; say how many tokens a chunk had")
        if merged.entries and not merged.entries.keys() & part.entries.keys():
            raise ImatrixError(
                f"{name}: has no weight in common with {names[0]} (one has {min(part.entries)}, the other "
                f"{min(merged.entries)}): they come from different models and cannot be merged"
            )
        for weight, entry in part.entries.items():
            known = merged.entries.get(weight)
            merged.entries[weight] = _copy(entry) if known is None else _sum(known, entry, weight, name)
        merged.datasets += part.datasets
    tokens = sum(part.chunk_count * part.chunk_size for part in parts)
    merged.chunk_count = round(tokens / merged.chunk_size)
    return merged


def _copy(entry: Entry) -> Entry:
    sums = None if entry.sums is None else entry.sums.copy()
    return Entry(entry.sums_of_squares.copy(), entry.counts.copy(), sums)


def _sum(a: Entry, b: Entry, weight: str, name: str) -> Entry:
    if a.sums_of_squares.size != b.sums_of_squares.size:
        raise ImatrixError(
            f"{name}: {weight} has {b.sums_of_squares.size} channels, {a.sums_of_squares.size} in the files before: "
            "they come from different models and cannot be merged"
        )
    n_matrices = max(len(a.counts), len(b.counts))
    if n_matrices > 1 and 1 not in (len(a.counts), len(b.counts)) and len(a.counts) != len(b.counts):
        raise ImatrixError(
            f"{name}: {weight} has {len(b.counts)} experts, {len(a.counts)} in the files before: "
            "they come from different models and cannot be merged"
        )
    a, b = _divided(a, n_matrices), _divided(b, n_matrices)
    sums = None if a.sums is None or b.sums is None else a.sums + b.sums
    return Entry(a.sums_of_squares + b.sums_of_squares, a.counts + b.counts, sums)


def _divided(entry: Entry, n_matrices: int) -> Entry:
    """An entry with one count for all its experts (a legacy file), as if each had been reached that often."""
    if len(entry.counts) == n_matrices:
        return entry
    sums = None if entry.sums is None else entry.sums.reshape(n_matrices, -1)
    counts = np.repeat(entry.counts, n_matrices)
    return Entry(entry.sums_of_squares.reshape(n_matrices, -1), counts, sums)

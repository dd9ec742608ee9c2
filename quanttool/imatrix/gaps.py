"""Filling the gaps of an imatrix: experts that the text reached rarely or never, weights under other names."""

from collections.abc import Iterable

import numpy as np

from .data import Entry, Imatrix

# An expert's own mean counts like this many rows of its layer's average. The mean square of one channel over n rows of
# activations scatters by about sqrt(2 / n) of itself, which at 16 rows is as much as experts of a layer differ.
PRIOR_ROWS = 16


def shrink_experts(imatrix: Imatrix) -> tuple[Imatrix, int]:
    """The imatrix with each expert's mean drawn towards that of all experts of its tensor; and how many had no row.

    mean = (sum of squares + PRIOR_ROWS * average) / (rows + PRIOR_ROWS), where the average is over all rows of all
    experts. An expert that was never reached gets the average itself. Entries of one matrix stay as they are, and so do
    tensors of which no expert was reached. In a legacy file counts are not rows: there, only experts that were never
    reached change. llama.cpp gives those ones for every channel instead.
    """
    entries, unseen = {}, 0
    for name, entry in imatrix.entries.items():
        if len(entry.counts) > 1 and entry.counts.any():
            unseen += int((entry.counts == 0).sum())
            entry = _shrunk(entry, counts_are_rows=imatrix.chunk_size > 0)
        entries[name] = entry
    return _with_entries(imatrix, entries), unseen


def _shrunk(entry: Entry, counts_are_rows: bool) -> Entry:
    average = entry.sums_of_squares.sum(axis=0) / entry.counts.sum()  # [n_cols]
    prior = np.full_like(entry.counts, PRIOR_ROWS)
    if not counts_are_rows:
        prior[entry.counts > 0] = 0
    return Entry(entry.sums_of_squares + prior[:, None] * average, entry.counts + prior)


# Weights that multiply the same input: where one has no entry, that of another is its own.
_SAME_INPUT = (
    ("ffn_up", "ffn_gate"),
    ("ffn_up_shexp", "ffn_gate_shexp"),
    ("ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps"),
)
_ALIASES = {name: [other for other in group if other != name] for group in _SAME_INPUT for name in group}


def add_aliases(imatrix: Imatrix, names: Iterable[str]) -> Imatrix:
    """The imatrix with entries for those of the model's tensors `names` that it has only under another name.

    ik_llama.cpp collects ffn_up alone, and files differ in whether ffn_gate and ffn_up are one tensor.
    """
    entries = dict(imatrix.entries)
    for name in names:
        start, _, kind = name.removesuffix(".weight").rpartition(".")
        for alias in _ALIASES.get(kind, ()) if name not in entries else ():
            if entry := imatrix.entries.get(f"{start}.{alias}.weight"):
                entries[name] = entry
                break
    return _with_entries(imatrix, entries)


def selected(imatrix: Imatrix, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Imatrix:
    """Only entries whose name contains one of `include`, if any are given, and none of `exclude`."""
    entries = {
        name: entry
        for name, entry in imatrix.entries.items()
        if (not include or any(piece in name for piece in include)) and not any(piece in name for piece in exclude)
    }
    return _with_entries(imatrix, entries)


def _with_entries(imatrix: Imatrix, entries: dict[str, Entry]) -> Imatrix:
    return Imatrix(
        entries,
        list(imatrix.datasets),
        imatrix.chunk_count,
        imatrix.chunk_size,
        imatrix.calls_are_batches,
        dict(imatrix.provenance),
    )

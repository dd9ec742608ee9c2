"""Filling the gaps of an imatrix: experts that the text reached rarely or never, weights under other names."""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from ..container import TensorInfo
from .data import Entry, Imatrix, LazyEntries

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
    unseen = 0
    for entry in imatrix.entries.values():
        if len(entry.counts) > 1 and entry.counts.any():
            unseen += int((entry.counts == 0).sum())
    makers = {name: partial(_shrunk, imatrix.entries, name, imatrix.chunk_size > 0) for name in imatrix.entries}
    return _with_entries(imatrix, LazyEntries(makers)), unseen


def _shrunk(entries: Mapping[str, Entry], name: str, counts_are_rows: bool) -> Entry:
    entry = entries[name]
    if len(entry.counts) == 1 or not entry.counts.any():
        return entry
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


def add_aliases(imatrix: Imatrix, tensors: Iterable[TensorInfo]) -> Imatrix:
    """The imatrix with entries for those of the model's tensors that it has only under another name.

    ik_llama.cpp collects ffn_up alone, and files differ in whether ffn_gate and ffn_up are one tensor, and attn_k_b and
    attn_v_b, too. What attn_v_b reads, per head, is a mean of what attn_kv_b reads: one lends the other its channels.
    attn_k_b reads queries, of which attn_kv_b knows nothing.
    """
    entries = imatrix.entries
    makers = {name: partial(entries.__getitem__, name) for name in entries}
    for tensor in tensors:
        start, _, kind = tensor.name.removesuffix(".weight").rpartition(".")
        if tensor.name in entries:
            continue
        known = [alias for alias in _ALIASES.get(kind, ()) if f"{start}.{alias}.weight" in entries]
        if known:
            makers[tensor.name] = partial(entries.__getitem__, f"{start}.{known[0]}.weight")
        elif kind in ("attn_v_b", "attn_kv_b"):
            other = f"{start}.{'attn_kv_b' if kind == 'attn_v_b' else 'attn_v_b'}.weight"
            if other in entries and entries[other].sums_of_squares.size % tensor.n_cols == 0:
                makers[tensor.name] = partial(_of_heads, entries, other, tensor)
    return _with_entries(imatrix, LazyEntries(makers))


def _of_heads(entries: Mapping[str, Entry], name: str, tensor: TensorInfo) -> Entry:
    """The mean over an entry's heads, for each head of a tensor: side by side under one count, as files have it."""
    entry = entries[name]
    by_head = entry.sums_of_squares.reshape(-1, tensor.n_cols)  # [n_heads or 1, n_cols]
    n_heads = tensor.ne[2] if len(tensor.ne) > 2 else 1
    return Entry(np.tile(by_head.mean(axis=0), n_heads)[None], entry.counts.max(keepdims=True))


def selected(imatrix: Imatrix, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Imatrix:
    """Only entries whose name contains one of `include`, if any are given, and none of `exclude`."""
    makers = {
        name: partial(imatrix.entries.__getitem__, name)
        for name in imatrix.entries
        if (not include or any(piece in name for piece in include)) and not any(piece in name for piece in exclude)
    }
    return _with_entries(imatrix, LazyEntries(makers))


def _with_entries(imatrix: Imatrix, entries: LazyEntries) -> Imatrix:
    return Imatrix(
        entries,
        list(imatrix.datasets),
        imatrix.chunk_count,
        imatrix.chunk_size,
        imatrix.calls_are_batches,
        dict(imatrix.provenance),
    )

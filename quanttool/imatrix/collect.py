"""Collect an imatrix while a text passes through a model."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..container import TensorInfo
from ..errors import ImatrixError
from ..kernels.moments import add_moments, add_weighted_moments
from .data import Entry, Imatrix


class Collector:
    """An observer for the forward pass: sums what each weight is multiplied with, and its squares.

    Called as collector(tensor name, x f32 [n_rows, n_cols], expert or None). Like llama-imatrix it takes every weight
    of a block (`blk.*`), experts each for itself, and all positions of all chunks. Unlike it, squares are summed in
    float64: a float32 sum stops growing properly after some million rows. A fourth argument, shares f32 [n_rows], says
    how much each row counts.

    tensors:  the model's tensors; their third dimension says how many experts an entry has
    n_ctx:    tokens per chunk, to say which chunk a bad value came from
    first_chunk:  the number of the text's first chunk that is collected, for the same reason

    Raises ImatrixError, with the tensor and the chunk, at the first value that is not finite.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], n_ctx: int, first_chunk: int = 1):
        self.entries: dict[str, Entry] = {}
        self._tensors, self._n_ctx, self._first_chunk = tensors, n_ctx, first_chunk
        self._shares: dict[str, NDArray[np.float64]] = {}  # what counts is for rows that count in part
        self._batch = (0, 0)  # first and last row of the batch that is on its way

    def __call__(
        self, name: str, x: NDArray[np.float32], expert: int | None = None, shares: NDArray[np.float32] | None = None
    ) -> None:
        if name.startswith("blk."):
            self.add(name, x, expert, shares)

    def add(
        self, name: str, x: NDArray[np.float32], expert: int | None = None, shares: NDArray[np.float32] | None = None
    ) -> None:
        """Take x whatever the weight's name: for the output matrix, which belongs to no block."""
        entry = self.entries.get(name)
        if entry is None:
            entry = self.entries[name] = self._new_entry(name, x.shape[1], expert)
        matrix = expert or 0
        if expert is None:
            self._batch = (int(entry.counts[0]), int(entry.counts[0]) + len(x) - 1)
        # One thread: it takes the rows as fast as memory gives them.
        x = np.ascontiguousarray(x)
        if shares is None:
            add_moments(x, entry.sums[matrix], entry.sums_of_squares[matrix])
            entry.counts[matrix] += len(x)
        else:
            add_weighted_moments(x, shares, entry.sums[matrix], entry.sums_of_squares[matrix])
            self._shares.setdefault(name, np.zeros(len(entry.counts)))[matrix] += shares.sum(dtype=np.float64)
        if not np.isfinite(entry.sums_of_squares[matrix]).all():
            raise self._not_finite(name, x, expert)

    def imatrix(self, datasets: list[str], chunk_count: int) -> Imatrix:
        """What was collected so far, shaped as llama.cpp has it."""
        entries = {name: entry if "_exps." in name else _one_count(entry) for name, entry in self.entries.items()}
        for name, shares in self._shares.items():
            entries[name] = _whole_counts(entries[name], shares)
        return Imatrix(entries, list(datasets), chunk_count, self._n_ctx)

    def _new_entry(self, name: str, n_cols: int, expert: int | None) -> Entry:
        n_matrices = 1 if expert is None else self._tensors[name].ne[2]
        shape = n_matrices, n_cols
        return Entry(np.zeros(shape), np.zeros(n_matrices, np.int64), np.zeros(shape))

    def _not_finite(self, name: str, x: NDArray[np.float32], expert: int | None) -> ImatrixError:
        row, column = np.argwhere(~np.isfinite(x))[0]
        first, last = self._batch
        if expert is None:  # experts see some rows of the batch, which ones is not known here
            first = last = first + row
        chunks = sorted({row // self._n_ctx + self._first_chunk for row in (first, last)})
        return ImatrixError(
            f"{name}: input channel {column} is {x[row, column]} in chunk {'-'.join(map(str, chunks))}"
            + ("" if expert is None else f" (expert {expert})")
            + "; the model's weights are damaged or overflow on this text. Nothing was saved"
        )


def _one_count(entry: Entry) -> Entry:
    """Slices that are no experts (heads of MLA's attn_k_b) all see the same rows: put side by side, with one count."""
    return Entry(entry.sums_of_squares.reshape(1, -1), entry.counts[:1], entry.sums.reshape(1, -1))


def _whole_counts(entry: Entry, shares: NDArray[np.float64]) -> Entry:
    """The same means with counts that are whole numbers, as files have them; what was seen at all counts as one row."""
    counts = np.where(shares > 0, np.maximum(np.rint(shares), 1), 0)
    factor = np.divide(counts, shares, out=np.zeros_like(shares), where=shares > 0)[:, None]
    return Entry(entry.sums_of_squares * factor, counts.astype(np.int64), entry.sums * factor)

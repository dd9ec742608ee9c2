"""Collect an imatrix while a text passes through a model."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..container import TensorInfo
from ..errors import ImatrixError
from ..kernels.moments import add_squares
from .data import Entry, Imatrix


class Collector:
    """An observer for the forward pass: sums the squares of what each weight is multiplied with.

    Called as collector(tensor name, x f32 [n_rows, n_cols], expert or None). Like llama-imatrix it takes every weight
    of a block (`blk.*`), experts each for itself, and all positions of all chunks. Unlike it, squares are summed in
    float64: a float32 sum stops growing properly after some million rows.

    tensors:  the model's tensors; their third dimension says how many experts an entry has
    n_ctx:    tokens per chunk, to say which chunk a bad value came from

    Raises ImatrixError, with the tensor and the chunk, at the first value that is not finite.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], n_ctx: int):
        self.entries: dict[str, Entry] = {}
        self._tensors, self._n_ctx = tensors, n_ctx
        self._batch = (0, 0)  # first and last row of the batch that is on its way

    def __call__(self, name: str, x: NDArray[np.float32], expert: int | None = None) -> None:
        if name.startswith("blk."):
            self.add(name, x, expert)

    def add(self, name: str, x: NDArray[np.float32], expert: int | None = None) -> None:
        """Take x whatever the weight's name: for the output matrix, which belongs to no block."""
        entry = self.entries.get(name)
        if entry is None:
            entry = self.entries[name] = self._new_entry(name, x.shape[1], expert)
        matrix = expert or 0
        if expert is None:
            self._batch = (int(entry.counts[0]), int(entry.counts[0]) + len(x) - 1)
        sums = entry.sums_of_squares[matrix]  # [n_cols]
        add_squares(np.ascontiguousarray(x), sums)  # one thread reads memory as fast as it comes
        entry.counts[matrix] += len(x)
        if not np.isfinite(sums).all():
            raise self._not_finite(name, x, expert)

    def imatrix(self, datasets: list[str], chunk_count: int) -> Imatrix:
        """What was collected so far."""
        return Imatrix(self.entries, list(datasets), chunk_count, self._n_ctx)

    def _new_entry(self, name: str, n_cols: int, expert: int | None) -> Entry:
        n_matrices = 1
        if expert is not None:
            n_matrices = self._tensors[name].ne[2]
        return Entry(np.zeros((n_matrices, n_cols)), np.zeros(n_matrices, np.int64))

    def _not_finite(self, name: str, x: NDArray[np.float32], expert: int | None) -> ImatrixError:
        row, column = np.argwhere(~np.isfinite(x))[0]
        first, last = self._batch
        if expert is None:  # experts see some rows of the batch, which ones is not known here
            first = last = first + row
        chunks = sorted({first // self._n_ctx + 1, last // self._n_ctx + 1})
        return ImatrixError(
            f"{name}: input channel {column} is {x[row, column]} in chunk {'-'.join(map(str, chunks))}"
            + ("" if expert is None else f" (expert {expert})")
            + "; the model's weights are damaged or overflow on this text. Nothing was saved"
        )

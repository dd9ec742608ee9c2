"""Tensors of several matrices (experts, heads), each rounded with its own covariance; and files of covariances."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import ImatrixError
from ..formats import BlockFormat, dequantize_rows, quantize_rows
from ..formats.base import Search
from ..formats.grid import has_grid
from ..imatrix.hessian import HessianFile
from .covariance import F32, F64
from .rounding import DAMPING, PASSES, Feedback, damped

Finished = Callable[[str], NDArray[np.uint8] | None]  # bytes of a tensor that an earlier run has made


def round_matrices(
    weights: F32, fmt: BlockFormat, seconds: F32, counts: NDArray, search: Search, passes: int, damping: float
) -> NDArray[np.uint8]:
    """Round matrices that lie below each other, each for its own inputs.

    weights:  f32 [n_matrices * n_rows, n_cols]
    seconds:  f32 [n_matrices, n_cols, n_cols], sums of x^T x; counts: [n_matrices], of rows
    returns:  u8 [n_matrices * n_rows, row_bytes]
    """
    n_rows, n_cols = len(weights) // len(seconds), weights.shape[1]
    out = np.empty((len(weights), fmt.type.row_bytes(n_cols)), np.uint8)
    pooled = seconds.sum(axis=0, dtype=np.float64) / max(counts.sum(), 1)
    for matrix, (second, count) in enumerate(zip(seconds, counts, strict=True)):
        rows = slice(matrix * n_rows, (matrix + 1) * n_rows)
        h = shrunk(second, count, pooled) if len(seconds) > 1 else pooled
        out[rows] = _better(weights[rows], fmt, h, search, passes, damping)
    return out


def shrunk(second: F32, count: float, pooled: F64) -> F64:
    """Mean x x^T of one matrix, drawn towards that of all: which counts like as many rows as there are columns.

    That of n columns estimated from fewer than n rows is singular; that of a matrix without a row is the pooled one.
    """
    prior = len(second)
    return (second.astype(np.float64) + prior * pooled) / (count + prior)


def _better(weights: F32, fmt: BlockFormat, h: F64, search: Search, passes: int, damping: float) -> NDArray[np.uint8]:
    importance = np.diagonal(h).astype(np.float32)
    plain = quantize_rows(weights, fmt.name, importance, search)
    if not has_grid(fmt) or not importance.any():
        return plain
    data = Feedback(damped(h, damping), passes).round(weights, fmt, importance, search)
    return min(plain, data, key=lambda one: _loss(dequantize_rows(one, fmt.name, weights.shape[1]) - weights, h))


def _loss(errors: F32, h: F64) -> float:
    return float(np.vdot(errors @ h.astype(np.float32), errors))


class HessianRounding:
    """Quantizes weights with error feedback from a file of covariances, without running the model.

    weights:  name -> f32 [n_rows, n_cols], expanded when it is asked for
    formats:  name -> format, of the tensors to be quantized
    """

    def __init__(
        self,
        weights: Callable[[str], F32],
        hessian: HessianFile,
        formats: Mapping[str, BlockFormat],
        search: Search = "best",
        passes: int = PASSES,
        damping: float = DAMPING,
    ):
        self.weights, self.hessian, self.formats = weights, hessian, formats
        self.how = search, passes, damping

    def tensors(self, finished: Finished = lambda name: None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Names and bytes u8 [n_rows, row_bytes] of the tensors, as they become ready."""
        for name, fmt in self.formats.items():
            data = finished(name)
            if data is None:
                weights = self.weights(name)
                seconds = _whole(self.hessian[name], weights.shape[1])
                if seconds.shape[1] != weights.shape[1]:
                    raise ImatrixError(
                        f"{name}: its covariance is {seconds.shape[1]} wide, the tensor's rows {weights.shape[1]}; use "
                        "a file made from this model"
                    )
                data = round_matrices(weights, fmt, seconds, self.hessian.counts(name), *self.how)
            yield name, data


def _whole(seconds: F32, n_cols: int) -> F32:
    """f32 [n_matrices, n_cols, n_cols]; of a file of diagonal blocks, with zeros between them."""
    if seconds.ndim == 3:
        return seconds
    n_matrices, n_blocks, size, _ = seconds.shape
    whole = np.zeros((n_matrices, n_blocks, size, n_blocks, size), np.float32)
    for block in range(n_blocks):
        whole[:, block, :, block] = seconds[:, block]
    return whole.reshape(n_matrices, n_blocks * size, n_blocks * size)[:, :n_cols, :n_cols]

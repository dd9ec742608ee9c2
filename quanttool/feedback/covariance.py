"""What the inputs of a weight are like: covariances of two passes over the same text, one with quantized weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import blas
from ..imatrix.hessian import add_whole
from ..parallel import for_each

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BLOCK = 256  # columns of a product that one thread computes at a time


@dataclass
class Inputs:
    """Sums over rows of inputs x (of the quantized model) and of their differences d = original - x.

    second:  x^T x, f32 [n_cols, n_cols]
    cross:   d^T x, f32 [n_cols, n_cols]
    count:   rows
    """

    second: F32
    cross: F32
    count: int = 0

    @classmethod
    def empty(cls, n_cols: int) -> "Inputs":
        return cls(np.zeros((n_cols, n_cols), np.float32), np.zeros((n_cols, n_cols), np.float32))

    def add(self, x: F32, original: F32) -> None:
        """Add rows x and original, f32 [n, n_cols]."""
        with blas.threads(1):
            add_whole(x, self.second)
            add_product(original - x, x, self.cross)
        self.count += len(x)


def add_product(a: F32, b: F32, sums: F32) -> None:
    """Add a^T b, block by block: a [n, n_a], b [n, n_b], sums [n_a, n_b]. The same bits for any number of threads."""

    def work(start: int) -> None:
        sums[start : start + BLOCK] += a[:, start : start + BLOCK].T @ b

    for_each(work, range(0, len(sums), BLOCK))

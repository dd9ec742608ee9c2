"""What the inputs of a weight are like: sums over two passes of the same text, one with quantized weights.

Where the processor multiplies bfloat16 numbers, sums are made of them: an error of 1 part in 512 in a number is no
more than a little noise in an input, of which there are many.
"""

from collections.abc import Callable
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .. import blas
from ..imatrix.hessian import add_whole
from ..kernels import products
from ..kernels.jit import processor_has
from ..kernels.register_tile import TILE_COLS, TILE_ROWS
from ..parallel import for_each

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BLOCK = 252  # columns of a sum that one thread computes at a time: a multiple of TILE_ROWS


class Inputs:
    """Sums over rows of inputs x of the quantized model, and of what the weight's outputs lack then.

    That is known by inputs, as the differences d = original - x; or by outputs.

    second:  x^T x, f32 [n_cols, n_cols]
    cross:   d^T x, f32 [n_cols, n_cols]
    lacks:   what outputs lack, times x, f32 [n_out, n_cols]; None: known by inputs
    count:   rows
    """

    def __init__(self, n_cols: int, n_out: int = 0):
        self.cross = np.zeros((0 if n_out else n_cols, n_cols), np.float32)
        self.lacks = np.zeros((n_out, n_cols), np.float32) if n_out else None
        self.count = 0
        self._upper = np.zeros((n_cols, n_cols), np.float32)  # x^T x, on the diagonal and above

    def add(self, x: F32, lacks: F32) -> None:
        """Add rows x f32 [n, n_cols], and what their originals have more, or what outputs lack, f32 [n, n_out]."""
        add_products(x, self._upper, lacks, self.cross if self.lacks is None else self.lacks)
        self.count += len(x)

    @cached_property
    def second(self) -> F32:
        """To be asked for when all rows have been added."""
        return np.triu(self._upper) + np.triu(self._upper, 1).T


def add_products(x: F32, upper: F32, a: F32, sums: F32) -> None:
    """Add x^T x, of which only the diagonal and what is above it counts, and a^T x.

    x:      f32 [n, n_cols], finite; a: f32 [n, n_a]
    upper:  f32 [n_cols, n_cols]
    sums:   f32 [n_a, n_cols]

    The bits do not depend on the number of threads.
    """
    if not processor_has("avx512bf16"):
        with blas.threads(1):
            add_whole(x, upper)
            _in_blocks(lambda rows: _add(sums[rows], a[:, rows].T @ x), len(sums))
        return
    left, n_cols = _pairs(x), x.shape[1]
    panels = np.empty((ceil(n_cols / TILE_COLS), left.shape[1], TILE_COLS), np.uint32)
    products.pack(left[:n_cols], panels)

    def multiply(left: NDArray[np.uint32], sums: F32, is_upper: bool) -> None:
        def work(rows: slice) -> None:
            tiles = left[rows.start : ceil(rows.stop / TILE_ROWS) * TILE_ROWS]
            first = rows.start // TILE_COLS if is_upper else 0
            out = np.empty((len(tiles), TILE_COLS * len(panels)), np.float32)
            products.multiply(tiles, panels, first, len(panels), out)
            columns = slice(TILE_COLS * first, n_cols)
            _add(sums[rows, columns], out[: rows.stop - rows.start, columns])

        _in_blocks(work, len(sums))

    multiply(left, upper, True)
    multiply(_pairs(a), sums, False)


def _add(sums: F32, more: F32) -> None:
    sums += more


def _in_blocks(work: Callable[[slice], None], n: int) -> None:
    for_each(work, [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)])


def _pairs(x: F32) -> NDArray[np.uint32]:
    """Columns as rows of bfloat16 pairs: f32 [n, n_cols] -> u32 [n_cols, ceil(n / 2)], filled up to whole tiles."""
    if len(x) % 2:
        x = np.concatenate([x, np.zeros((1, x.shape[1]), np.float32)])
    out = np.zeros((ceil(x.shape[1] / TILE_ROWS) * TILE_ROWS, len(x) // 2), np.uint32)
    products.columns_to_bf16(np.ascontiguousarray(x), out[: x.shape[1]])
    return out

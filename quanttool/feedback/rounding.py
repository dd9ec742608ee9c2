"""Round a matrix to a format's grid with error feedback.

With E = Q - W the loss is trace(E H E^T). H = R R^T with R upper triangular makes it the sum over columns j of
(R_jj (E_j + sum_{i<j} E_i R_ij / R_jj))^2 for each row: going through the columns in order, each is rounded to what
makes up for the errors of those before it (LDLQ; equal to GPTQ). See docs/algorithms/error-feedback.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import blas
from ..formats import BlockFormat, read_only
from ..formats.base import Search
from ..formats.grid import GROUP, levels, write_codes
from ..kernels.feedback import round_columns
from ..kernels.tiles import as_tiles, store_tiles
from ..parallel import for_each_slab

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SUPER_BLOCK = 256  # columns whose scales are found together, before the first of them is rounded
ROWS_PER_SLAB = 128
DAMPING = 0.01  # times the mean of H's diagonal: added to it


def damped(second: NDArray, damping: float = DAMPING) -> F64:
    """H + damping * mean(diag H), f64; a channel that is always zero gets the mean itself, so its weight is kept."""
    h = second.astype(np.float64)
    diagonal = np.einsum("ii->i", h)
    mean = diagonal.mean() or 1.0
    diagonal[diagonal <= 0] = mean
    diagonal += damping * mean
    return h


def order_of_columns(h: F64) -> list[NDArray[np.int64]]:
    """Super-blocks in the order in which they are rounded, each the order of its columns: the most important first.

    What is rounded late can make up for what was rounded before it; what matters most is better rounded precisely.
    """
    diagonal = np.diagonal(h)
    blocks = [np.arange(start, min(start + SUPER_BLOCK, len(h))) for start in range(0, len(h), SUPER_BLOCK)]
    blocks = [block[np.argsort(-diagonal[block], kind="stable")] for block in blocks]
    return sorted(blocks, key=lambda block: -diagonal[block].mean())


def couplings_before(h: F64, order: NDArray[np.int64]) -> F32:
    """R_ij / R_jj at [j, i], columns in the given order; 0 for i >= j."""
    reverse = order[::-1]
    lower = np.linalg.cholesky(h[np.ix_(reverse, reverse)])  # of the flipped matrix: R, flipped
    upper = lower[::-1, ::-1]
    return np.tril((upper / np.diagonal(upper)).T, -1).astype(np.float32)


def couplings_all(h: F64, order: NDArray[np.int64]) -> F32:
    """H_ij / H_jj at [j, i], columns in the given order; 0 for i = j."""
    h = h[np.ix_(order, order)]
    out = h / np.diagonal(h)[:, None]
    np.fill_diagonal(out, 0)
    return out.astype(np.float32)


class Feedback:
    """Rounds matrices that have the same inputs; made once per covariance.

    h:        f64 [n_cols, n_cols], positive definite
    passes:   further passes over all columns after the first, each of which lowers the loss
    """

    def __init__(self, h: F64, passes: int = 1):
        self.blocks = order_of_columns(h)
        self.order = np.concatenate(self.blocks)
        self.couplings = [couplings_before(h, self.order)] + [couplings_all(h, self.order)] * passes

    def round(self, rows: F32, fmt: BlockFormat, importance: F32, search: Search) -> NDArray[np.uint8]:
        """Rows f32 [n_rows, n_cols] as bytes u8 [n_rows, row_bytes] of a format with a grid.

        importance:  f32 [n_cols], what scales are found with
        """
        out = np.empty((len(rows), fmt.type.row_bytes(rows.shape[1])), np.uint8)
        scales = Scales(fmt, read_only(np.ascontiguousarray(importance, np.float32)), search)
        with blas.threads(1):
            for_each_slab(lambda slab: self._round(rows[slab], scales, out[slab]), len(rows), ROWS_PER_SLAB)
        return out

    def _round(self, rows: F32, scales: "Scales", out: NDArray[np.uint8]) -> None:
        scales.begin(rows, out)
        targets = rows[:, self.order]
        errors, codes = np.zeros_like(targets), np.empty(targets.shape, np.uint8)
        tables = []
        for couplings in self.couplings:
            start = 0
            for block, columns in enumerate(self.blocks):
                here = slice(start, start + len(columns))
                start = here.stop
                shifts = errors[:, here] @ couplings[here, here].T - errors @ couplings[here].T
                if len(tables) == block:  # in the first pass
                    tables.append(scales.find(targets[:, here] + shifts, columns, out))
                codes[:, here], errors[:, here] = round_block(
                    targets[:, here], shifts, couplings[here, here], tables[block], columns, errors[:, here]
                )
        codes[:, self.order] = codes.copy()
        write_codes(scales.fmt, codes, out)


@dataclass(frozen=True)
class Scales:
    """Finds the scales of a super-block just before it is rounded, for the values that are wanted of it by then."""

    fmt: BlockFormat
    importance: F32  # [n_cols]
    search: Search

    def begin(self, rows: F32, out: NDArray[np.uint8]) -> None:
        """Settle what the super-blocks of a row share."""
        if self.fmt.type.row_meta_bytes:
            self._quantize(np.ascontiguousarray(rows), 0, out)

    def find(self, wanted: F32, columns: NDArray[np.int64], out: NDArray[np.uint8]) -> F32:
        """Write a super-block's scales into `out`; returns the levels f32 [n_rows, n_groups, n_levels]."""
        first, meta = columns.min(), self.fmt.type.row_meta_bytes
        start, stop = (self.fmt.type.row_bytes(n) for n in (first, first + len(columns)))
        if not meta:
            values = np.empty_like(wanted)
            values[:, columns - first] = wanted
            data = np.empty((len(wanted), stop - start), np.uint8)
            self._quantize(values, first, data)
            out[:, start:stop] = data
        return levels(self.fmt, np.hstack([out[:, :meta], out[:, start:stop]]), len(columns))

    def _quantize(self, values: F32, first: int, out: NDArray[np.uint8]) -> None:
        importance = None
        if self.fmt.importance != "ignored":
            importance = self.importance[first : first + values.shape[1]]
        self.fmt.quantize(read_only(values), importance, self.fmt.search_for(self.search, importance), out)


def round_block(
    targets: F32, shifts: F32, couplings: F32, tables: F32, columns: NDArray[np.int64], errors: F32
) -> tuple[NDArray[np.uint8], F32]:
    """Codes u8 and errors f32 [n_rows, n_cols] of one super-block; tables f32 [n_rows, n_groups, n_levels]."""
    new_errors, codes = as_tiles(np.ascontiguousarray(errors)), np.empty(errors.shape, np.uint8)
    code_tiles = np.empty(new_errors.shape, np.uint8)
    round_columns(
        as_tiles(np.ascontiguousarray(targets)),
        as_tiles(np.ascontiguousarray(shifts)),
        np.ascontiguousarray(couplings),
        as_tiles(tables.reshape(len(tables), -1)),
        (columns - columns.min()) // GROUP,
        code_tiles,
        new_errors,
    )
    out = np.empty_like(errors)
    store_tiles(code_tiles, codes)
    store_tiles(new_errors, out)
    return codes, out

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
from ..parallel import for_each_slab
from .grids import Grid, grid_of

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


class Order:
    """The order in which columns are rounded, and how they are coupled in it.

    Super-blocks with the largest mean of diag H come first, and in them steps (columns that are rounded together) with
    the largest: what is rounded late can make up for what was rounded before it; what matters most is better rounded
    precisely.

    blocks:   of each super-block its columns, i64
    columns:  all of them, i64 [n_cols]
    """

    def __init__(self, h: F64, step: int):
        self.h, self.step = h, step
        diagonal = np.diagonal(h)
        blocks = [np.arange(start, min(start + SUPER_BLOCK, len(h))) for start in range(0, len(h), SUPER_BLOCK)]
        blocks = [self._largest_first(block.reshape(-1, step)) for block in blocks]
        self.blocks = sorted(blocks, key=lambda block: -diagonal[block].mean())
        self.columns = np.concatenate(self.blocks)

    def _largest_first(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        means = np.diagonal(self.h)[steps].mean(axis=1)
        return steps[np.argsort(-means, kind="stable")].reshape(-1)

    def before(self) -> "Couplings":
        """With the columns before: R_ij / R_jj at [j, i], 0 for i >= j; and R_jj^2."""
        upper = _upper(self.h[np.ix_(self.columns, self.columns)])
        diagonal = np.diagonal(upper)
        return Couplings(np.tril((upper / diagonal).T, -1), diagonal**2)

    def all(self) -> "Couplings":
        """With all other columns.

        For a step g, with H_gg = R R^T: R^-1 H_gi / R_jj for columns i outside; among those of g as in `before`. With
        steps of one column that is H_ij / H_jj.
        """
        h = self.h[np.ix_(self.columns, self.columns)].reshape(-1, self.step, len(self.h))  # [n_steps, step, n_cols]
        n, inside = np.arange(len(h))[:, None], np.arange(len(self.h)).reshape(-1, 1, self.step)
        upper = _upper(np.take_along_axis(h, np.broadcast_to(inside, (len(h), self.step, self.step)), axis=2))
        diagonal = np.einsum("nii->ni", upper)
        out = np.linalg.solve(upper, h) / diagonal[:, :, None]
        own = np.tril((upper / diagonal[:, None]).swapaxes(1, 2), -1)
        out[n, :, inside[:, 0]] = own.swapaxes(1, 2)
        return Couplings(out.reshape(len(self.h), -1), diagonal.reshape(-1) ** 2)


@dataclass
class Couplings:
    """How errors E count: as the sum over columns j of weight_j (E_j + sum over i of coupling_ji E_i)^2.

    values:   f32 [n_cols, n_cols]
    weights:  f32 [n_cols]
    """

    values: F32
    weights: F32

    def __post_init__(self) -> None:
        self.values, self.weights = self.values.astype(np.float32), self.weights.astype(np.float32)


def _upper(h: F64) -> F64:
    """R with R R^T = h, upper triangular; h f64 [..., n, n]."""
    return np.linalg.cholesky(h[..., ::-1, ::-1])[..., ::-1, ::-1]


class Feedback:
    """Rounds matrices that have the same inputs; made once per covariance.

    h:        f64 [n_cols, n_cols], positive definite
    passes:   further passes over all columns after the first, each of which lowers the loss
    """

    def __init__(self, h: F64, passes: int = 1):
        self.h, self.passes = h, passes
        self._plans: dict[int, tuple[Order, list[Couplings]]] = {}  # by the columns of a step

    def round(self, rows: F32, fmt: BlockFormat, importance: F32, search: Search) -> NDArray[np.uint8]:
        """Rows f32 [n_rows, n_cols] as bytes u8 [n_rows, row_bytes] of a format with a grid.

        importance:  f32 [n_cols], what scales are found with
        """
        out = np.empty((len(rows), fmt.type.row_bytes(rows.shape[1])), np.uint8)
        scales = Scales(fmt, read_only(np.ascontiguousarray(importance, np.float32)), search)
        grid = grid_of(fmt)
        plan = self._plan(grid.step)
        with blas.threads(1):
            for_each_slab(lambda slab: _round(rows[slab], grid, scales, *plan, out[slab]), len(rows), ROWS_PER_SLAB)
        return out

    def _plan(self, step: int) -> tuple[Order, list[Couplings]]:
        if step not in self._plans:
            order = Order(self.h, step)
            self._plans[step] = order, [order.before(), *([order.all()] if self.passes else []) * self.passes]
        return self._plans[step]


def _round(
    rows: F32, grid: Grid, scales: "Scales", order: Order, passes: list[Couplings], out: NDArray[np.uint8]
) -> None:
    scales.begin(rows, out)
    targets = rows[:, order.columns]
    errors, codes = np.zeros_like(targets), np.empty(targets.shape, grid.dtype)
    tables = []
    for couplings in passes:
        start = 0
        for block, columns in enumerate(order.blocks):
            here = slice(start, start + len(columns))
            start = here.stop
            own = couplings.values[here]
            shifts = -(errors[:, : here.start] @ own[:, : here.start].T)
            if len(tables) == len(order.blocks):  # a further pass
                shifts -= errors[:, here.stop :] @ own[:, here.stop :].T
            if len(tables) == block:  # in the first pass
                data = scales.find(targets[:, here] + shifts, columns, out)
                tables.append(grid.tables(data, len(columns)))
            codes[:, here], errors[:, here] = grid.round(
                targets[:, here],
                shifts,
                own[:, here],
                couplings.weights[here],
                tables[block],
                columns - columns.min(),
                errors[:, here],
            )
    codes[:, order.columns] = codes.copy()
    grid.write(codes, out)


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

    def find(self, wanted: F32, columns: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write a super-block's scales into `out`; returns it as a row of its own, u8 [n_rows, row_bytes]."""
        first, meta = columns.min(), self.fmt.type.row_meta_bytes
        start, stop = (self.fmt.type.row_bytes(n) for n in (first, first + len(columns)))
        data = np.hstack([out[:, :meta], out[:, start:stop]])
        if not meta or self.fmt.rescales:
            values = np.empty_like(wanted)
            values[:, columns - first] = wanted
            self._quantize(values, first, data)
            if meta:
                self.fmt.rescale(data, out[:, :meta])
            out[:, start:stop] = data[:, meta:]
        return data

    def _quantize(self, values: F32, first: int, out: NDArray[np.uint8]) -> None:
        importance = None
        if self.fmt.importance != "ignored":
            importance = self.importance[first : first + values.shape[1]]
        self.fmt.quantize(read_only(values), importance, self.fmt.search_for(self.search, importance), out)

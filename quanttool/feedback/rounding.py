"""Round a matrix to a format's grid with error feedback.

With E = Q - W the loss is trace(E H E^T). H = R R^T with R upper triangular makes it the sum over columns j of
(R_jj (E_j + sum_{i<j} E_i R_ij / R_jj))^2 for each row: going through the columns in order, each is rounded to what
makes up for the errors of those before it (LDLQ; equal to GPTQ). See docs/algorithms/error-feedback.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import blas
from ..formats import BlockFormat, read_only
from ..formats.base import Search
from ..formats.grid import unwoven
from ..formats.repacked import rewoven
from ..parallel import for_each_slab
from .grids import Grid, grid_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SUPER_BLOCK = 256  # columns whose scales are found together, before the first of them is rounded
ROWS_PER_SLAB = 128
PASSES = 2  # over all columns after the first
DAMPING = 0.5  # times the mean of H's diagonal: added to it; the text is never all that a model will read


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

    steps:    i64 [n_steps, step], see `Grid`
    blocks:   of each super-block its columns, i64
    columns:  all of them, i64 [n_cols]
    """

    def __init__(self, h: F64, steps: NDArray[np.int64]):
        self.h, self.step = h, steps.shape[1]
        diagonal = np.diagonal(h)
        blocks = [np.arange(start, min(start + SUPER_BLOCK, len(h))) for start in range(0, len(h), SUPER_BLOCK)]
        blocks = [
            self._largest_first(block.reshape(-1, steps.size)[:, steps].reshape(-1, self.step)) for block in blocks
        ]
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
    passes:   further passes over all columns after the first; each looks for better scales, and lowers the loss
    """

    def __init__(self, h: F64, passes: int = PASSES):
        self.h, self.passes = h, passes
        self._plans: dict[bytes, Plan] = {}  # by the steps of a grid

    def round(self, rows: F32, fmt: BlockFormat, importance: F32, search: Search) -> NDArray[np.uint8]:
        """Rows f32 [n_rows, n_cols] as bytes u8 [n_rows, row_bytes] of a format with a grid.

        importance:  f32 [n_cols], what scales are found with
        """
        woven, fmt = fmt, unwoven(fmt)
        out = np.empty((len(rows), fmt.type.row_bytes(rows.shape[1])), np.uint8)
        scales = Scales(fmt, read_only(np.ascontiguousarray(importance, np.float32)), search)
        grid = grid_of(fmt)
        plan = self._plan(grid.steps)

        def work(slab: slice) -> None:
            rounded = _Slab(rows[slab], grid, scales, plan, out[slab])
            rounded.first_pass()
            for _ in range(self.passes):
                rounded.another_pass()
            rounded.write()

        with blas.threads(1):
            for_each_slab(work, len(rows), ROWS_PER_SLAB)
        return out if woven is fmt else rewoven(out, fmt.name, woven.name, rows.shape[1])

    def _plan(self, steps: NDArray[np.int64]) -> "Plan":
        key = steps.tobytes()
        if key not in self._plans:
            order = Order(self.h, steps)
            h = self.h[np.ix_(order.columns, order.columns)].astype(np.float32) if self.passes else None
            self._plans[key] = Plan(order, h, order.before(), order.all() if self.passes else None)
        return self._plans[key]


class Plan(NamedTuple):
    """What all rows have in common. h: f32 [n_cols, n_cols], in the order of the columns; used with `after` alone."""

    order: Order
    h: F32 | None
    first: Couplings
    after: Couplings | None  # in later passes


class _Slab:
    """Rows while they are rounded; errors and codes [n_rows, n_cols] have the plan's order of columns."""

    def __init__(self, rows: F32, grid: Grid, scales: "Scales", plan: Plan, out: NDArray[np.uint8]):
        self.grid, self.scales, self.plan, self.out = grid, scales, plan, out
        scales.begin(rows, out)
        self.targets = rows[:, plan.order.columns]
        self.errors, self.codes = np.zeros_like(self.targets), np.empty(self.targets.shape, grid.dtype)
        self.tables: list[tuple[F32, ...]] = []  # of the super-blocks, in order

    def first_pass(self) -> None:
        for here, columns in self._blocks():
            shifts = self._shifts(here, self.plan.first)
            self.tables.append(self._tables(self.targets[:, here] + shifts, columns))
            self.codes[:, here], self.errors[:, here] = self._nearest(
                here, columns, shifts, self.plan.first, self.tables[-1]
            )

    def another_pass(self) -> None:
        """Round each super-block anew for what all others are by now.

        With the scales that it has, and with those found for what is wanted of each of its columns then; in each row,
        what leaves the lower loss stays.
        """
        after = self.plan.after
        for block, (here, columns) in enumerate(self._blocks()):
            shifts = self._shifts(here, after)
            own, elsewhere = self.plan.h[here, here], self._elsewhere(here)
            codes, errors = self._nearest(here, columns, shifts, after, self.tables[block])
            if self.scales.of_blocks:
                wanted = self.targets[:, here] + shifts - errors @ after.values[here, here].T
                kept = self.out.copy()
                tables = self._tables(wanted, columns)
                others = self._nearest(here, columns, shifts, after, tables)
                better = _loss(others[1], own, elsewhere) < _loss(errors, own, elsewhere)
                codes[better], errors[better] = (new[better] for new in others)
                for old, new in zip(self.tables[block], tables, strict=True):
                    old[better] = new[better]
                self.out[~better] = kept[~better]
            self.codes[:, here], self.errors[:, here] = codes, errors

    def write(self) -> None:
        codes = np.empty_like(self.codes)
        codes[:, self.plan.order.columns] = self.codes
        self.grid.write(codes, self.out)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Of each super-block, in order: its place in that order, and its columns."""
        start = 0
        for columns in self.plan.order.blocks:
            yield slice(start, start + len(columns)), columns
            start += len(columns)

    def _shifts(self, here: slice, couplings: Couplings) -> F32:
        """What the errors of other super-blocks call for, f32 [n_rows, n]."""
        shifts = -(self.errors[:, : here.start] @ couplings.values[here, : here.start].T)
        if couplings is self.plan.after:
            shifts -= self.errors[:, here.stop :] @ couplings.values[here, here.stop :].T
        return shifts

    def _elsewhere(self, here: slice) -> F32:
        """Errors of other super-blocks times their covariances with this one, f32 [n_rows, n]."""
        return self.errors @ self.plan.h[:, here] - self.errors[:, here] @ self.plan.h[here, here]

    def _tables(self, wanted: F32, columns: NDArray[np.int64]) -> tuple[F32, ...]:
        return self.grid.tables(self.scales.find(wanted, columns, self.out), len(columns))

    def _nearest(
        self, here: slice, columns: NDArray[np.int64], shifts: F32, couplings: Couplings, tables: tuple[F32, ...]
    ) -> tuple[NDArray, F32]:
        """Codes and errors [n_rows, n] of a super-block."""
        return self.grid.round(
            self.targets[:, here],
            shifts,
            couplings.values[here, here],
            couplings.weights[here],
            tables,
            columns - columns.min(),
            self.errors[:, here],
        )


def _loss(errors: F32, own: F32, elsewhere: F32) -> F32:
    """What a super-block's errors add to the loss of each row, given those elsewhere: f32 [n_rows]."""
    return np.einsum("ij,ij->i", errors @ own + 2 * elsewhere, errors)


@dataclass(frozen=True)
class Scales:
    """Finds the scales of a super-block just before it is rounded, for the values that are wanted of it by then."""

    fmt: BlockFormat
    importance: F32  # [n_cols]
    search: Search

    @property
    def of_blocks(self) -> bool:
        """There are scales to be found for each super-block: not all is settled with the row."""
        return not self.fmt.type.row_meta_bytes or self.fmt.rescales

    def begin(self, rows: F32, out: NDArray[np.uint8]) -> None:
        """Settle what the super-blocks of a row share."""
        if self.fmt.type.row_meta_bytes:
            self._quantize(np.ascontiguousarray(rows), 0, out)

    def find(self, wanted: F32, columns: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write a super-block's scales into `out`; returns it as a row of its own, u8 [n_rows, row_bytes]."""
        first, meta = columns.min(), self.fmt.type.row_meta_bytes
        start, stop = (self.fmt.type.row_bytes(n) for n in (first, first + len(columns)))
        data = np.hstack([out[:, :meta], out[:, start:stop]])
        if self.of_blocks:
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

"""search="best" for formats whose values are d * level * entry of a table: codes, tables, levels and d together.

1. For each sub-block and each curve (table and sign of the scale) the float scale that fits best.
2. Many values of d; a guess of what each leaves, from the codes of those fits, chooses a few.
3. From each of these: nearest levels, either table, exact codes; d anew by weighted least squares, as it will be
   stored; again, a few times. The best of all is kept, if it is better than what the reference search finds.

docs/algorithms/best-search.md tells more.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.best_tables import Entries, best_levels_near, fit_curves, promising_d
from ..kernels.lanes import LANES
from ..kernels.tabulated import table_steps
from ..kernels.tiles import as_tiles, n_tiles
from .better import keep_better
from .tabulated import (
    F32,
    ROW_SCALE_TYPES,
    U16,
    Tabulated,
    as_sub_tile,
    of_subs,
    quotient,
    sub_tiles,
    tiles_of,
    usable_importance,
)


class Trials(NamedTuple):
    """What the search of a type tries.

    reaches:  the largest value of a sub-block is scaled to these parts of the table's reach
    d_parts:  the largest scale of a unit is brought to these parts of the top level
    starts:   how many values of d are tried in earnest
    sweeps:   how often d is refitted for each
    around:   how many levels beside those next to the fits (see `best_levels_near`)
    """

    reaches: F32
    d_parts: F32
    starts: int = 2
    sweeps: int = 3
    around: int = 0


class Solution(NamedTuple):
    """d and what belongs to it, for each unit."""

    gain: F32  # [n_units], how much the error is below sum w x^2
    d: F32  # [n_units]
    index: U16  # [n_units, n_subs], which of the levels in ascending order
    table: U16  # [n_units, n_subs]


def geometric(low: float, high: float, n: int) -> F32:
    """n numbers from low to high, evenly spaced in their logarithm."""
    return np.geomspace(low, high, n).astype(np.float32)


# Six times as many trials of everything lower the error by another 0.1 to 0.5 %. But with more and wider trials
# (reaches from 0.5 to 1.6 and one level more on either side) IQ4_XS had 1 % less error and 5 % more divergence.
USUAL = Trials(geometric(0.6, 1.3, 10), geometric(0.5, 1.7, 128))


class BestTabulated(Tabulated):
    """A table format with search="best"."""

    has_best = True
    best_trials: ClassVar[Trials] = USUAL

    def quantize(self, rows, importance, search, out):
        self.quantize_reference(rows, importance, out)
        if search == "best":
            other = np.empty_like(out)
            self.quantize_best(rows, importance, other)
            keep_better(self, rows, importance, out, other)

    def quantize_reference(self, rows: F32, importance: F32 | None, out: NDArray[np.uint8]) -> None:
        super().quantize(rows, importance, "reference", out)

    def quantize_best(self, rows: F32, importance: F32, out: NDArray[np.uint8]) -> None:
        x, exponents = self.units(rows)
        weights = usable_importance(x.reshape(rows.shape), importance, x.shape[2]).reshape(x.shape)
        solution = self.solve_best(x, weights, lambda d: self.as_stored(d, exponents))
        self.store(*solution, x, exponents, out)

    def as_stored(self, d: F32, exponents: NDArray[np.int32]) -> F32:
        """d f32 [n_units] of units of magnitude one as it will be read back from the bytes."""
        dtype = ROW_SCALE_TYPES[self.type.row_meta_bytes or 2]
        return np.ldexp(self.storable(d, exponents).astype(dtype).astype(np.float32), -exponents)

    def search_tiles(self, values: F32) -> F32:
        """Values [n_units, n_subs, size] as tiles in the order that the search wants."""
        return tiles_of(values)

    def book(self) -> tuple:
        """How entries are chosen (see `kernels.best_tables`)."""
        return Entries(self.tables[:, 0, 0].copy(), *table_steps(self.tables[..., 0].copy()))

    def solve_best(self, x: F32, weights: F32, stored: Callable[[F32], F32]) -> tuple[F32, U16, U16, U16]:
        """What `solve` gives, for units x and weights f32 [n_units, n_subs, size], without `d_factor`.

        stored:  f32 [n_units] -> f32 [n_units], d as the bytes will hold it
        """
        _, d, index, table = self.search_best(x, weights, stored)
        scale_codes = np.argsort(self.levels)[index].astype(np.uint16)
        codes, _ = self.find_codes(x, weights, d, scale_codes, table)
        return d, scale_codes, table, codes

    def search_best(self, x: F32, weights: F32, stored: Callable[[F32], F32]) -> Solution:
        trials, book, levels = self.best_trials, self.book(), level_grid(self.levels)
        tiles = self.search_tiles(x), self.search_tiles(weights)
        fits = np.empty((3, 2 * len(self.tables), *sub_tiles(1, x).shape[1:]), np.float32)
        fit_curves(*tiles, book, np.abs(self.tables).max() * trials.reaches, fits)
        best = None
        for d in first_ds(fits, levels, trials, x):
            for _ in range(trials.sweeps):
                d = stored(d)
                chosen = sub_tiles(5, x)
                d_tile = as_sub_tile(np.repeat(d, x.shape[1]))
                best_levels_near(*tiles, book, fits, d_tile, levels, trials.around, chosen)
                index, table, gain, qx, q2 = (of_subs(part, x) for part in chosen)
                found = Solution(gain.sum(axis=1), d, index.astype(np.uint16), table.astype(np.uint16))
                best = found if best is None else better_of(best, found)
                d = quotient(qx.sum(axis=1), q2.sum(axis=1))
        return best


def better_of(one: NamedTuple, other: NamedTuple) -> NamedTuple:
    """Of two solutions unit by unit the one with more gain, their first field; of equals the first.

    Fields are arrays [n_units, ...].
    """
    better = other.gain > one.gain
    chosen = [np.where(better.reshape(-1, *(1,) * (a.ndim - 1)), b, a) for a, b in zip(one, other, strict=True)]
    return type(one)(*chosen)


def level_grid(levels: F32) -> tuple[np.float32, np.float32, np.float32]:
    """Evenly spaced levels as (lowest, step, number - 1)."""
    step = np.ptp(levels) / max(len(levels) - 1, 1)
    return levels.min(), np.float32(step or 1), np.float32(len(levels) - 1)


def first_ds(fits: F32, levels: tuple, trials: Trials, x: F32) -> F32:
    """The most promising d of each unit, f32 [trials.starts, n_units]."""
    n_units = len(x)
    lowest, step, last = levels
    parts = trials.d_parts * lowest
    if lowest != -(lowest + step * last):
        parts = np.concatenate([parts, -parts])
    by_unit = np.stack([[as_tiles(of_subs(curve, x)) for curve in part] for part in fits])
    starts = np.empty((trials.starts, n_tiles(n_units), LANES), np.float32)
    promising_d(by_unit, levels, parts, starts)
    return starts.reshape(trials.starts, -1)[:, :n_units]

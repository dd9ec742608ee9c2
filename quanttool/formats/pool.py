"""Searches among sequences: groups of 4 or 8 values that a code stands for, found by the nearest point in so many axes.

A slightly different scale meets quite different sequences, and finding them is what costs. So search="best" keeps what
each trial scale has found, in a pool, and chooses from it: no further search is needed while levels and d are settled.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.trellis import Book, make_book, nearest_points
from .base import block_format
from .best_tables import BestTabulated, geometric
from .tabulated import F32, U16, UNIFORM_IMPORTANCE, largest_of, quotient

# For search="best": the largest scale is brought to these parts of the largest level.
BEST_D_PARTS = np.concatenate([geometric(0.6, 1.5, 40), -geometric(0.6, 1.5, 40)])
SWEEPS = 4  # of choosing levels for d and refitting d for levels, in search="best"


class Pool(NamedTuple):
    """Sequences that each sub-block may take, and the sums that tell how they fit; the first axis numbers them."""

    variants: U16  # [n, n_units, n_subs]
    codes: U16  # [n, n_units, n_subs, n_groups]
    qx: F32  # [n, n_units, n_subs], sum w q x
    q2: F32  # [n, n_units, n_subs], sum w q^2

    @classmethod
    def of(cls, found: Iterable[tuple[int, U16, F32, F32]]) -> "Pool":
        """From table, codes, w q x and w q^2 of each trial."""
        variants, *rest = (np.stack(part) for part in zip(*found, strict=True))
        return cls(np.broadcast_to(variants[:, None, None], rest[1].shape).astype(np.uint16), *rest)

    def taking(self, which: NDArray[np.int64]) -> tuple[U16, U16, F32, F32]:
        """Fields without the first axis: number `which` [n_units, n_subs] of each sub-block."""
        return tuple(np.take_along_axis(a, which.reshape(1, *which.shape, *(1,) * (a.ndim - 3)), 0)[0] for a in self)


class PoolSearch(BestTabulated):
    """Base of formats whose tables are of sequences.

    n_bins:  cells along each axis in the search for the nearest sequence
    unit:    the sequences are whole multiples of this
    reach:   how far sequences are searched for (see `kernels.trellis`), in trials of scales and in the end: with
             eight dimensions half the way costs 0.04 % of the error and takes two thirds of the time
    """

    n_bins: ClassVar[int] = 2
    unit: ClassVar[float] = 1
    reach: ClassVar[tuple[float, float]] = (0.3, 0.5)

    @property
    def search_tables(self) -> F32:
        """Tables f32 [n_tables, n_codes, dim]; a sub-block has the same for all of its groups."""
        return self.tables

    def best_pool(self, x: F32, weights: F32) -> Iterable[tuple[int, U16, F32, F32]]:
        """What the pool begins with."""
        raise NotImplementedError

    def trials_of(
        self, x: F32, weights: F32, inverses: Iterable[F32], reach: float | None = None
    ) -> Iterator[tuple[int, U16, F32, F32]]:
        """For each trial scale and table the table's number, and `nearest_sequences`."""
        for inverse in inverses:
            for v in range(len(self.search_tables)):
                yield v, *self.nearest_sequences(x, weights, inverse, v, reach or self.reach[0])

    def solve_best(self, x, weights, stored):
        """Members of the pool, levels and d in turns. Then sequences for just these scales join it, and once more."""
        weights = weights + UNIFORM_IMPORTANCE
        pool = Pool.of(self.best_pool(x, weights))
        scores = quotient(pool.qx * pool.qx, pool.q2)
        _, _, qx, q2 = pool.taking(scores.argmax(axis=0))
        targets = np.abs(self.levels).max() * BEST_D_PARTS
        d = self.fit_d(quotient(qx, q2), scores.max(axis=0), targets)
        d, scale_codes, which = self.choose(pool, d, stored)
        inverses = quotient(np.float32(1), d[:, None] * self.levels[scale_codes])
        more = Pool.of(self.trials_of(x, weights, [inverses], self.reach[1]))
        pool = Pool(*(np.concatenate(pair) for pair in zip(pool, more, strict=True)))
        d, scale_codes, which = self.choose(pool, d, stored)
        variants, codes, _, _ = pool.taking(which)
        return d, scale_codes, variants, codes

    def choose(self, pool: Pool, d: F32, stored: Callable[[F32], F32]) -> tuple[F32, U16, NDArray[np.int64]]:
        """d f32 [n_units], scale codes u16 [n_units, n_subs] and the members i64 [n_units, n_subs] of least error."""
        for _ in range(SWEEPS):
            d = stored(d)
            codes = np.stack([self.nearest_levels(quotient(*part), d) for part in zip(pool.qx, pool.q2, strict=True)])
            scales = d[:, None] * self.levels[codes]
            which = (scales * (2 * pool.qx - scales * pool.q2)).argmax(axis=0)
            scale_codes = np.take_along_axis(codes, which[None], axis=0)[0]
            _, _, qx, q2 = pool.taking(which)
            levels = self.levels[scale_codes]
            last, d = d, quotient((levels * qx).sum(axis=1), (levels * levels * q2).sum(axis=1))
        return last, scale_codes, which

    def fit_d(self, scales: F32, scores: F32, targets: Iterable[float]) -> F32:
        """The best d f32 [n_units] of those that bring the largest scale to one of the targets, refitted."""
        top = largest_of(scales)
        qx, q2 = quotient(scores, scales), quotient(scores, scales * scales)  # each sub-block's w q x and w q^2
        best, d = np.zeros((2, len(scales)), np.float32)
        for target in targets:
            levels = self.levels[self.nearest_levels(scales, top / np.float32(target))]
            sum_qx, sum_q2 = (levels * qx).sum(axis=1), (levels * levels * q2).sum(axis=1)
            better = sum_qx * sum_qx > best * sum_q2
            d = np.where(better, quotient(sum_qx, sum_q2), d)
            best = np.where(better, d * sum_qx, best)
        return d

    def nearest_sequences(self, x: F32, weights: F32, inverses: F32, v: int, reach: float) -> tuple[U16, F32, F32]:
        """Numbers u16 [n_units, n_subs, n_groups] of the sequences of table v nearest to x * inverses.

        And the sums w q x and w q^2 of each sub-block, f32 [n_units, n_subs].
        """
        points = self.search_tables[v]
        dim = points.shape[1]
        found = np.empty(x.size // dim, np.int32)
        groups = x.reshape(-1, dim), weights.reshape(-1, dim)
        inverses = np.repeat(inverses / np.float32(self.unit), x.shape[2] // dim)
        nearest_points(*groups, inverses, np.float32(reach), *book(self.name, v), found)
        q = points[found].reshape(x.shape)
        wq = weights * q
        return found.reshape(*x.shape[:2], -1).astype(np.uint16), (wq * x).sum(axis=2), (wq * q).sum(axis=2)


@cache
def book(name: str, v: int) -> Book:
    """The sequences of a type, prepared for the search (some 30 ms)."""
    fmt = block_format(name)
    return make_book(fmt.search_tables[v] / np.float32(fmt.unit), fmt.n_bins)

"""IQ1_KT, IQ2_KT, IQ3_KT, IQ4_KT: trellis types, each group of 4 or 8 values is a pseudo-random sequence by its seed.

Layouts: ik_llama.cpp ggml-common.h `block_iq1_kt` ... `block_iq4_kt`, each row led by a float32 scale; decoding:
iqk_quantize.cpp `dequantize_row_iq1_kt` ... `dequantize_row_iq4_kt`; search: `quantize_row_iq1_kt_impl` ...
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.trellis import Book, make_book, nearest_points
from . import iqk_tables as table
from .best_tables import BestTabulated, geometric
from .layout import Layout, bits, join
from .tabulated import F32, U16, UNIFORM_IMPORTANCE, largest_of, quotient

j = np.arange(256)  # values of a block
b = np.arange(8)  # its sub-blocks of 32
g = np.arange(32)  # its groups of 8
q = np.arange(64)  # its groups of 4

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


class Trellis(BestTabulated):
    """The search of the four: a few scales for each sub-block, each with the nearest sequences.

    n_bins:     cells along each axis in the search for the nearest sequence
    base:       the sub-block's largest value is brought to this part of the sequences' range ...
    by_row:     ... or, if that is more, to this times its share in the row's largest value
    offsets:    and to these beside it
    signs:      with these signs
    d_targets:  the row's largest scale is brought to these levels
    reach:      how far sequences are searched for (see `kernels.trellis`), in trials of scales and in the end: with
                eight dimensions half the way costs 0.04 % of the error and takes two thirds of the time
    best_offsets: in place of `offsets`, for search="best"
    """

    n_bins: ClassVar[int] = 2
    base: ClassVar[float] = 90
    by_row: ClassVar[float] = 124
    offsets: ClassVar[tuple[float, ...]] = (0,)
    signs: ClassVar[tuple[int, ...]] = (1, -1)
    d_targets: ClassVar[tuple[float, ...]] = tuple(range(-127 - 9, -127 + 10))
    reach: ClassVar[tuple[float, float]] = (0.3, 0.5)
    best_offsets: ClassVar[tuple[float, ...]] = tuple(range(-48, 25, 12))
    plain_sigma = 0.25

    def weights(self, rows, importance, size):
        """Never quite zero, as sequences are told apart by their weighted distance alone."""
        return super().weights(rows, importance, size) + UNIFORM_IMPORTANCE

    def find_levels(self, x, weights):
        scales, scores, variants = self.find_scales(x, weights)
        d = self.fit_d(scales, scores, self.d_targets)
        return d, self.nearest_levels(scales, d), variants

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

    def find_scales(self, x: F32, weights: F32) -> tuple[F32, F32, U16]:
        """Best float scale, its score (sum w q x)^2 / sum w q^2, and table of each sub-block, [n_units, n_subs]."""
        scales, scores = np.zeros((2, *x.shape[:2]), np.float32)
        variants = np.zeros(x.shape[:2], np.uint16)
        for v, _, qx, q2 in self.trials_of(x, weights, self.offsets):
            better = qx * qx > scores * q2
            scales = np.where(better, quotient(qx, q2), scales)
            scores = np.where(better, scales * qx, scores)
            variants = np.where(better, np.uint16(v), variants)
        return scales, scores, variants

    def trials_of(self, x: F32, weights: F32, offsets: tuple[float, ...]) -> Iterator[tuple[int, U16, F32, F32]]:
        """For each trial scale the table, and `nearest_sequences` with it."""
        largest = np.abs(x).max(axis=2)
        share = largest / np.maximum(largest.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        target = np.maximum(np.float32(self.base), np.float32(self.by_row) * share)
        for v, offset, sign in product(range(len(self.tables)), offsets, self.signs):
            inverses = quotient(np.float32(sign) * (target + np.float32(offset)), largest)
            yield v, *self.nearest_sequences(x, weights, inverses, v, self.reach[0])

    def find_codes(self, x, weights, d, scale_codes, variants):
        levels = self.levels[scale_codes]
        codes, qx, q2 = self.find_sequences(x, weights, d[:, None] * levels, variants)
        return codes, np.stack([(levels * qx).sum(axis=1), (levels * levels * q2).sum(axis=1)], axis=1)

    def find_sequences(self, x: F32, weights: F32, scales: F32, variants: U16) -> tuple[U16, F32, F32]:
        """`nearest_sequences` with the table that each sub-block has, for scales f32 [n_units, n_subs]."""
        inverses = quotient(np.float32(1), scales)
        codes, qx, q2 = self.nearest_sequences(x, weights, inverses, 0, self.reach[1])
        for v in range(1, len(self.tables)):
            codes_v, qx_v, q2_v = self.nearest_sequences(x, weights, inverses, v, self.reach[1])
            here = variants == v
            codes = np.where(here[..., None], codes_v, codes)
            qx, q2 = np.where(here, qx_v, qx), np.where(here, q2_v, q2)
        return codes, qx, q2

    def solve_best(self, x, weights, stored):
        """A pool of sequences for each sub-block, one for each trial scale; which of them, levels and d in turns.

        Then sequences for just these scales join the pool.
        """
        weights = weights + UNIFORM_IMPORTANCE
        pool = Pool.of(self.trials_of(x, weights, self.best_offsets))
        scores = quotient(pool.qx * pool.qx, pool.q2)
        _, _, qx, q2 = pool.taking(scores.argmax(axis=0))
        targets = np.abs(self.levels).max() * BEST_D_PARTS
        d = self.fit_d(quotient(qx, q2), scores.max(axis=0), targets)
        d, scale_codes, which = self.choose(pool, d, stored)
        inverses = quotient(np.float32(1), d[:, None] * self.levels[scale_codes])
        more = ((v, *self.nearest_sequences(x, weights, inverses, v, self.reach[1])) for v in range(len(self.tables)))
        pool = Pool(*(np.concatenate(pair) for pair in zip(pool, Pool.of(more), strict=True)))
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

    def nearest_sequences(self, x: F32, weights: F32, inverses: F32, v: int, reach: float) -> tuple[U16, F32, F32]:
        """Numbers u16 [n_units, n_subs, n_groups] of the sequences of table v nearest to x * inverses.

        And the sums w q x and w q^2 of each sub-block, f32 [n_units, n_subs].
        """
        points = self.tables[v]
        dim = points.shape[1]
        found = np.empty(x.size // dim, np.int32)
        groups = x.reshape(-1, dim), weights.reshape(-1, dim)
        nearest_points(*groups, np.repeat(inverses, x.shape[2] // dim), np.float32(reach), *book(self.name, v), found)
        q = points[found].reshape(x.shape)
        wq = weights * q
        return found.reshape(*x.shape[:2], -1).astype(np.uint16), (wq * x).sum(axis=2), (wq * q).sum(axis=2)


@cache
def book(name: str, v: int) -> Book:
    """The sequences of a type, prepared for the search (some 30 ms)."""
    fmt = next(fmt for fmt in (IQ1_KT, IQ2_KT, IQ3_KT, IQ4_KT) if fmt.name == name)()
    return make_book(fmt.tables[v], fmt.n_bins)


class IQ1_KT(Trellis):
    name = "IQ1_KT"
    layout = Layout(
        56,
        scale=bits(4, b),
        code=join(bits(8, 8 + g), bits(4, 40 + g % 16, 4 * (g // 16)), bits(1, g // 4, 4 + g % 4)),
    )
    levels = table.IQ4[0, :, 0]
    offsets = (0, -8)
    d_factor = 1.07

    @property
    def tables(self):
        return table.sequences(1 << 13, 8)[None]


class IQ2_KT(Trellis):
    name = "IQ2_KT"
    layout = Layout(68, scale=bits(4, b % 4, 4 * (b // 4)), code=bits(16, 4 + 2 * g))
    levels = table.IQ4[0, :, 0]

    @property
    def tables(self):
        return table.sequences(1 << 16, 8)[None]


class IQ3_KT(Trellis):
    """Magnitudes by sequence, signs one by one."""

    name = "IQ3_KT"
    layout = Layout(
        100,
        scale=bits(4, b % 4, 4 * (b // 4)),
        code=bits(16, 4 + 2 * g),
        sign=bits(1, 68 + j % 32, j // 32),
    )
    levels = table.integers(0, 16)
    base = 84
    by_row = 123
    offsets = (0, -24, -16, -8, 8, 16, 24)
    best_offsets = tuple(range(-48, 25, 8))
    signs = (1,)
    d_targets = tuple(15 + 0.2 * i for i in range(-9, 10))

    @property
    def tables(self):
        return table.magnitudes(1 << 16, 8)[None]

    def nearest_sequences(self, x, weights, inverses, v, reach):
        return super().nearest_sequences(np.abs(x), weights, inverses, v, reach)

    def write_codes(self, codes, x):
        return {"code": codes, "sign": x < 0}

    def expand(self, fields, scales, out):
        super().expand(fields, scales, out)
        bits_of_out = out.view(np.uint32)
        bits_of_out ^= fields["sign"].reshape(out.shape).astype(np.uint32) << 31


class IQ4_KT(Trellis):
    """Groups of 4; the second table are the seeds that follow those of the first."""

    name = "IQ4_KT"
    layout = Layout(
        128,
        variant=bits(1, 4 * b),
        scale=bits(7, 4 * b, 1),
        code=join(bits(8, 32 + q), bits(4, 96 + q % 32, 4 * (q // 32)), bits(3, 4 * (q // 8), 8 + 3 * (q % 8))),
    )
    levels = table.integers(-64, 64)
    n_bins = 4
    reach = (0.5, 1.0)
    offsets = (0, -16, -8, 8, 16)
    best_offsets = tuple(range(-48, 25, 6))
    d_targets = (-64,)

    @property
    def tables(self):
        return table.sequences(1 << 16, 4).reshape(2, 1 << 15, 4)

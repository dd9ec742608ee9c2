"""IQ2_KS, IQ3_KS, IQ4_KS, IQ5_KS, IQ4_KSS and IQ2_KL: non-linear codes in blocks of 32, one float for the whole row.

Layouts: ik_llama.cpp ggml-common.h `block_iq2_ks` ... `block_iq2_kl`, each row led by its scale (float16 or float32);
decoding: iqk_quantize.cpp `dequantize_row_iq2_ks` ... `dequantize_row_iq2_kl`; searches: `quantize_row_iq3_ks_impl`,
`quantize_row_iq4_k_impl_bs128`, `quantize_row_iq5_ks_impl`, `quantize_row_iq4_kss_impl`, `quantize_row_iq2_kl_impl`.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels.best_tables import Pairs, Words
from ..kernels.lanes import LANES
from ..kernels.pairs import best_pair_scales, encode_pairs
from ..kernels.parity import WORD, best_even_scales, encode_even
from ..kernels.tabulated import table_steps
from . import iqk_tables as table
from .best_tables import BestTabulated
from .layout import Layout, bits, join
from .tabulated import (
    U16,
    UNIFORM_IMPORTANCE,
    all_crossings,
    as_sub_tile,
    from_tiles,
    of_subs,
    sub_tiles,
    tiles_of,
    trials_around,
)
from .two_bit import TwoBit

j = np.arange(256)  # values of a block
b = np.arange(8)  # its sub-blocks of 32
p = np.arange(128)  # its pairs of values


IQ3_AXIS = table.IQ3[0, :, 0].copy()

# IQ4_KSS: the entries of codes with an even and with an odd number of set bits, and the way back.
PARITY = np.array([code.bit_count() % 2 for code in range(16)])
EVEN_AND_ODD = tuple(table.IQ4[:, parity == PARITY, 0].copy() for parity in (0, 1))
CODE_OF_ENTRY = np.zeros((2, 256), np.uint16)  # negative entries count from the end
for _variant, _entries in enumerate(table.IQ4[..., 0].astype(np.int64)):
    CODE_OF_ENTRY[_variant, _entries] = np.arange(16)
NIBBLE_SHIFTS = np.array([0, 4, 8, 12], np.uint16)


class IQ2_KS(TwoBit):
    name = "IQ2_KS"
    layout = Layout(
        70,
        variant=bits(1, 0, b),
        scale=join(bits(4, 2, 4 * b), bits(1, 1, b)),
        code=bits(2, 6 + 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)),
    )
    levels = table.integers(-16, 16)
    tables = table.IQ2
    trials = all_crossings(table.IQ2, 32)
    d_factor = 1.0  # as in the search that ik_llama.cpp uses unless asked not to (`quantize_row_iq2_ks_fast_impl`)


class IQ3_KS(BestTabulated):
    name = "IQ3_KS"
    layout = Layout(
        102,
        variant=bits(1, 1, b),
        scale=join(bits(4, 2 + b % 4, 4 * (b // 4)), bits(1, 0, b)),
        code=join(bits(2, 6 + 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)), bits(1, 70 + j % 32, j // 32)),
    )
    levels = table.integers(-16, 16)
    tables = table.IQ3
    trials = trials_around(table.IQ3, 5)
    top_level = -16


class IQ4_KS(BestTabulated):
    name = "IQ4_KS"
    layout = Layout(
        136,
        variant=bits(1, b),
        scale=bits(7, b, 1),
        code=bits(4, 8 + 16 * (j // 32) + j % 16, 4 * (j // 16 % 2)),
    )
    levels = table.integers(-127, 128, 2)
    tables = table.IQ4
    trials = trials_around(table.IQ4, 7)
    top_level = 127


class IQ5_KS(BestTabulated):
    name = "IQ5_KS"
    layout = Layout(
        168,
        variant=bits(1, b),
        scale=bits(7, b, 1),
        code=join(bits(4, 8 + 32 * (j // 64) + j % 32, 4 * (j // 32 % 2)), bits(1, 136 + j % 32, j // 32)),
    )
    levels = table.integers(-127, 128, 2)
    tables = table.IQ5
    trials = trials_around(table.IQ5, 5)
    top_level = 127


class IQ2_KL(BestTabulated):
    """One code for each pair of neighbours."""

    name = "IQ2_KL"
    layout = Layout(
        86,
        scale=join(bits(4, 2 + b % 4, 4 * (b // 4)), bits(2, 0, 2 * b)),
        code=join(bits(4, 6 + 16 * (p // 32) + p % 16, 4 * (p // 16 % 2)), bits(1, 70 + p % 16, p // 16)),
    )
    points = Layout(86, point=layout.fields["code"])
    levels = table.integers(-32, 32)
    tables = table.IQ2_KL
    trials = trials_around(table.IQ3[:1], 5)
    top_level = -32
    sigma = 2.25
    d_factor = 1.025

    @property
    def point_values(self):
        return self.tables[0]

    def weights(self, rows, importance, size):
        """Without importance |x|; never quite zero, as points are told apart by their weighted distance alone."""
        weights = np.abs(rows) if importance is None else super().weights(rows, importance, size)
        return weights + UNIFORM_IMPORTANCE

    def find_scales(self, x, weights):
        (scales,) = sub_tiles(1, x)
        targets = self.trials[:, 1].copy()
        best_pair_scales(tiles_of(x), tiles_of(weights), IQ3_AXIS, table.IQ2_KL_PLACES, targets, scales)
        return of_subs(scales, x), np.zeros(x.shape[:2], np.uint16)

    def book(self):
        return Pairs(IQ3_AXIS, table.IQ2_KL_PLACES, np.empty((2 * len(IQ3_AXIS), LANES), np.float32))

    def find_codes(self, x, weights, d, scale_codes, variants):
        """Of the level nearest to the float scale and its two neighbours the best."""
        n_units, n_subs, _ = x.shape
        x_tiles, levels, sums = tiles_of(x), as_sub_tile(self.levels[scale_codes]), sub_tiles(2, x)
        codes = np.empty((len(x_tiles) // 2, LANES), np.uint8)
        bounds = self.levels[0], self.levels[-1]
        points = IQ3_AXIS, table.IQ2_KL_PLACES
        d_tile = as_sub_tile(np.repeat(d, n_subs))
        encode_pairs(x_tiles, tiles_of(weights), *points, d_tile, *bounds, levels, codes, sums)
        scale_codes[:] = of_subs(levels, x) - self.levels[0]
        return from_tiles(codes, n_units * n_subs), np.stack([of_subs(part, x).sum(axis=1) for part in sums], axis=1)


# Word k of the eight in a sub-block of 32 holds the values 2 k, 2 k + 16, 2 k + 1, 2 k + 17.


def by_word(values: NDArray) -> NDArray:
    """Values [..., n], put in the order of the words."""
    halves = values.reshape(-1, 2, 8, 2)  # upper half, word, odd
    return np.ascontiguousarray(halves.transpose(0, 2, 3, 1)).reshape(values.shape)


def by_value(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Codes [n_rows, n_blocks, 64, 4] by word -> [n_rows, n_blocks, 256] by value."""
    words = codes.reshape(-1, 8, 2, 2)  # word, odd, upper half
    return np.ascontiguousarray(words.transpose(0, 3, 1, 2)).reshape(*codes.shape[:2], 256)


def words_of(codes: U16) -> U16:
    """Codes [..., 4] of a word -> what is stored of it [...]: u such that the codes are u ^ (u >> 1), less a bit."""
    word = (codes << NIBBLE_SHIFTS).sum(axis=-1, dtype=np.uint16)
    for shift in (1, 2, 4, 8):
        word ^= word >> shift
    return word >> 1


class WordLayout(Layout):
    """Codes by value, packed into words."""

    def pack(self, fields, out, meta_bytes=0):
        codes = by_word(fields["code"]).reshape(*fields["code"].shape[:2], -1, WORD)
        super().pack({"word": words_of(codes.astype(np.uint16))}, out, meta_bytes)


class IQ4_KSS(BestTabulated):
    """Four codes share 16 bits of even parity, which leaves 15 to store, and one for the scale.

    The stored word u (its lowest bit is one of the eight of the scale) stands for the codes u ^ (u >> 1).
    """

    name = "IQ4_KSS"
    layout = Layout(
        128,
        variant=bits(1, 16 * b),
        scale=join(*(bits(1, 16 * b + 2 * i) for i in range(1, 8))),
        word=bits(15, 2 * np.arange(64), 1),
    )
    codes = WordLayout(128, word=layout.fields["word"])
    n_codes = 16
    words = by_word(j[:32]).reshape(-1, WORD)
    levels = table.integers(-127, 128, 2)
    tables = table.IQ4
    trials = trials_around(table.IQ4, 7)
    top_level = 127
    plain_sigma = 0.03  # ik_llama.cpp has 0; but exact parity repair would then always spoil the smallest values
    d_factor = 1.01

    def search_tiles(self, values):
        return tiles_of(by_word(values))

    def book(self):
        even, odd = ((entries[:, 0].copy(), *table_steps(entries)) for entries in EVEN_AND_ODD)
        return Words(even, odd, np.empty((2 * WORD, LANES), np.float32))

    def find_scales(self, x, weights):
        (scales,) = sub_tiles(1, x)
        best_even_scales(tiles_of(by_word(x)), tiles_of(by_word(weights)), *EVEN_AND_ODD, self.trials, scales)
        return of_subs(scales, x), np.zeros(x.shape[:2], np.uint16)

    def find_codes(self, x, weights, d, scale_codes, variants):
        n_units, n_subs, _ = x.shape
        x_tiles, sums = tiles_of(by_word(x)), sub_tiles(2, x)
        (tables_now,) = sub_tiles(1, x)
        scale = as_sub_tile(np.repeat(d, n_subs)), as_sub_tile(self.levels[scale_codes])
        entries = np.empty_like(x_tiles)
        encode_even(x_tiles, tiles_of(by_word(weights)), *EVEN_AND_ODD, *scale, tables_now, entries, sums)
        variants[:] = of_subs(tables_now, x)
        entries = from_tiles(entries, n_units * n_subs).astype(np.int64)
        codes = CODE_OF_ENTRY[variants.reshape(-1, 1), entries].reshape(n_units, -1, WORD)
        return codes, np.stack([of_subs(part, x).sum(axis=1) for part in sums], axis=1)

    def write_codes(self, codes, x):
        return {"word": words_of(codes)}

    def read_codes(self, fields):
        word = fields["word"] << 1
        return by_value(((word ^ (word >> 1))[..., None] >> NIBBLE_SHIFTS) & 15)

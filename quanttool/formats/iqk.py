"""IQ2_K ... IQ6_K: non-linear codes in blocks of 16, a float16 scale for each 256 values.

Sixteen integer scales and sixteen bits that choose between a table and its shifted twin share one float16 `d`.
Layouts: ik_llama.cpp ggml-common.h `block_iq2_k` ... `block_iq6_k`; decoding: iqk_quantize.cpp `dequantize_row_iq2_k`
... `dequantize_row_iq6_k`; searches: `quantize_row_iq2_k_impl` ... `quantize_row_iq6_k_impl`.
"""

import numpy as np

from . import iqk_tables as table
from .best_tables import BestTabulated
from .layout import Layout, bits, join
from .tabulated import all_crossings, trials_around
from .two_bit import TwoBit

j = np.arange(256)  # values of a block
b = np.arange(16)  # its sub-blocks of 16


class IQ2_K(TwoBit):
    name = "IQ2_K"
    layout = Layout(
        76,
        d=bits(16, 0),
        variant=bits(1, 2, b),
        scale=bits(4, 4, 4 * b),
        code=bits(2, 12 + 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)),
    )
    levels = table.integers(-8, 8)
    tables = table.IQ2
    trials = all_crossings(table.IQ2, 16)
    limits = (1.0, 0.7, 0.5)


class IQ3_K(BestTabulated):
    """The scale is an odd number: four bits of magnitude, one of sign."""

    name = "IQ3_K"
    layout = Layout(
        110,
        d=bits(16, 0),
        variant=bits(1, 2, b),
        scale=join(bits(4, 6, 4 * b), bits(1, 4, b)),
        code=join(bits(2, 14 + 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)), bits(1, 78 + j % 32, j // 32)),
    )
    levels = np.concatenate([table.integers(1, 33, 2), -table.integers(1, 33, 2)])
    tables = table.IQ3
    trials = trials_around(table.IQ3, 3, step=2, refit=True)
    top_level = 31
    sigma = 1.5
    plain_sigma = 0.25
    d_factor = 1.01


class IQ4_K(BestTabulated):
    name = "IQ4_K"
    layout = Layout(
        144,
        d=bits(16, 0),
        variant=bits(1, 2, b),
        scale=join(bits(4, 8, 4 * b), bits(2, 4, 2 * b)),
        code=bits(4, 16 + 16 * (j // 32) + j % 16, 4 * (j // 16 % 2)),
    )
    levels = table.integers(-32, 32)
    tables = table.IQ4
    trials = trials_around(table.IQ4, 7)
    top_level = -32


class IQ5_K(BestTabulated):
    name = "IQ5_K"
    layout = Layout(
        176,
        d=bits(16, 0),
        variant=bits(1, 2, b),
        scale=join(bits(4, 8, 4 * b), bits(2, 4, 2 * b)),
        code=join(bits(4, 16 + 32 * (j // 64) + j % 32, 4 * (j // 32 % 2)), bits(1, 144 + j % 32, j // 32)),
    )
    levels = table.integers(-32, 32)
    tables = table.IQ5
    trials = trials_around(table.IQ5, 5, refit=True)
    top_level = -32
    plain_sigma = 0.25


class IQ6_K(BestTabulated):
    """Decoded with the cubic that the integer table (which ik_llama.cpp's own kernels use) was rounded from."""

    name = "IQ6_K"
    layout = Layout(
        212,
        d=bits(16, 0),
        variant=bits(1, 2, b),
        scale=bits(8, 4 + b),
        code=join(
            bits(4, 20 + 32 * (j // 64) + j % 32, 4 * (j // 32 % 2)),
            bits(2, 148 + 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)),
        ),
    )
    levels = np.concatenate([table.integers(0, 128), table.integers(-128, 0)])
    tables = table.IQ6_CUBIC
    trials = trials_around(table.IQ6, 5, refit=True)
    top_level = -127
    plain_sigma = 0.25

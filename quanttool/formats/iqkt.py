"""IQ1_KT, IQ2_KT, IQ3_KT, IQ4_KT: trellis types, each group of 4 or 8 values is a pseudo-random sequence by its seed.

Layouts: ik_llama.cpp ggml-common.h `block_iq1_kt` ... `block_iq4_kt`, each row led by a float32 scale; decoding:
iqk_quantize.cpp `dequantize_row_iq1_kt` ... `dequantize_row_iq4_kt`.
"""

import numpy as np

from . import iqk_tables as table
from .layout import Layout, bits, join
from .tabulated import Tabulated

j = np.arange(256)  # values of a block
b = np.arange(8)  # its sub-blocks of 32
g = np.arange(32)  # its groups of 8
q = np.arange(64)  # its groups of 4


class IQ1_KT(Tabulated):
    name = "IQ1_KT"
    layout = Layout(
        56,
        scale=bits(4, b),
        code=join(bits(8, 8 + g), bits(4, 40 + g % 16, 4 * (g // 16)), bits(1, g // 4, 4 + g % 4)),
    )
    levels = table.IQ4[0, :, 0]

    @property
    def tables(self):
        return table.sequences(1 << 13, 8)[None]


class IQ2_KT(Tabulated):
    name = "IQ2_KT"
    layout = Layout(68, scale=bits(4, b % 4, 4 * (b // 4)), code=bits(16, 4 + 2 * g))
    levels = table.IQ4[0, :, 0]

    @property
    def tables(self):
        return table.sequences(1 << 16, 8)[None]


class IQ3_KT(Tabulated):
    """Magnitudes by sequence, signs one by one."""

    name = "IQ3_KT"
    layout = Layout(
        100,
        scale=bits(4, b % 4, 4 * (b // 4)),
        code=bits(16, 4 + 2 * g),
        sign=bits(1, 68 + j % 32, j // 32),
    )
    levels = table.integers(0, 16)

    @property
    def tables(self):
        return table.magnitudes(1 << 16, 8)[None]

    def expand(self, fields, scales, out):
        super().expand(fields, scales, out)
        bits_of_out = out.view(np.uint32)
        bits_of_out ^= fields["sign"].reshape(out.shape).astype(np.uint32) << 31


class IQ4_KT(Tabulated):
    """Groups of 4; the second table are the seeds that follow those of the first."""

    name = "IQ4_KT"
    layout = Layout(
        128,
        variant=bits(1, 4 * b),
        scale=bits(7, 4 * b, 1),
        code=join(bits(8, 32 + q), bits(4, 96 + q % 32, 4 * (q // 32)), bits(3, 4 * (q // 8), 8 + 3 * (q % 8))),
    )
    levels = table.integers(-64, 64)

    @property
    def tables(self):
        return table.sequences(1 << 16, 4).reshape(2, 1 << 15, 4)

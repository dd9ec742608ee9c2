"""IQ4_NL and IQ4_XS: 4-bit codes of 16 fixed, unevenly spaced levels."""

import numpy as np

from ..kernels import iq4
from . import iqk_tables as table
from .base import NO_IMPORTANCE
from .best_tables import BestTabulated, Trials, geometric
from .layout import Layout, bits, join

j = np.arange(256)  # values of a block
b = np.arange(8)  # its sub-blocks of 32


class Iq4(BestTabulated):
    """What the two have in common: llama.cpp's search as `quantize_reference`."""

    tables = table.IQ4[:1]


class IQ4_NL(Iq4):
    """32 values: f16 d, 16 bytes of codes (ggml-common.h `block_iq4_nl`)."""

    name = "IQ4_NL"
    # No bits are stored for the scale: there is one level, 1.
    layout = Layout(18, d=bits(16, 0), scale=bits(0, [0]), code=bits(4, 2 + j[:32] % 16, 4 * (j[:32] // 16)))
    levels = table.integers(1, 2)
    best_trials = Trials(geometric(0.6, 1.4, 32), geometric(1, 1, 1), starts=1)

    def quantize_reference(self, rows, importance, out):
        blocks = rows.reshape(-1, 32)
        scales = np.empty((len(blocks), 1), np.float32)
        iq4.iq4_scales(blocks, NO_IMPORTANCE if importance is None else importance, scales)
        iq4.iq4_nl_pack(blocks, scales, out.reshape(-1, 18))

    def dequantize(self, data, out):
        iq4.iq4_nl_unpack(data.reshape(-1, 18), out.reshape(-1, 32))


class IQ4_XS(Iq4):
    """256 values: f16 d, eight 6-bit scales, 128 bytes of codes (ggml-common.h `block_iq4_xs`)."""

    name = "IQ4_XS"
    layout = Layout(
        136,
        d=bits(16, 0),
        scale=join(bits(4, 4 + b // 2, 4 * (b % 2)), bits(2, 2 + b // 4, 2 * (b % 4))),
        code=bits(4, 8 + 16 * (j // 32) + j % 16, 4 * (j // 16 % 2)),
    )
    levels = table.integers(-32, 32)

    def quantize_reference(self, rows, importance, out):
        blocks = rows.reshape(-1, 256)
        scales = np.empty((len(blocks), 8), np.float32)
        iq4.iq4_scales(blocks, NO_IMPORTANCE if importance is None else importance, scales)
        iq4.iq4_xs_pack(blocks, scales, out.reshape(-1, 136))

    def dequantize(self, data, out):
        iq4.iq4_xs_unpack(data.reshape(-1, 136), out.reshape(-1, 256))

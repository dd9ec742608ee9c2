"""IQ4_NL and IQ4_XS: 4-bit codes of 16 fixed, unevenly spaced levels."""

import numpy as np

from ..kernels import iq4
from .base import NO_IMPORTANCE, BlockFormat


class IQ4_NL(BlockFormat):
    """32 values: f16 d, 16 bytes of codes (ggml-common.h `block_iq4_nl`)."""

    name = "IQ4_NL"

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 32)
        scales = np.empty((len(blocks), 1), np.float32)
        iq4.iq4_scales(blocks, NO_IMPORTANCE if importance is None else importance, scales)
        iq4.iq4_nl_pack(blocks, scales, out.reshape(-1, 18))

    def dequantize(self, data, out):
        iq4.iq4_nl_unpack(data.reshape(-1, 18), out.reshape(-1, 32))


class IQ4_XS(BlockFormat):
    """256 values: f16 d, eight 6-bit scales, 128 bytes of codes (ggml-common.h `block_iq4_xs`)."""

    name = "IQ4_XS"

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 256)
        scales = np.empty((len(blocks), 8), np.float32)
        iq4.iq4_scales(blocks, NO_IMPORTANCE if importance is None else importance, scales)
        iq4.iq4_xs_pack(blocks, scales, out.reshape(-1, 136))

    def dequantize(self, data, out):
        iq4.iq4_xs_unpack(data.reshape(-1, 136), out.reshape(-1, 256))

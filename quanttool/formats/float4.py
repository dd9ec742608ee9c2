"""MXFP4 and NVFP4: 4-bit floats with a scale for every 32 or 16 values. The reference search ignores importance.

Source: ggml-common.h `block_mxfp4`, `block_nvfp4`; OCP Microscaling Formats specification (MXFP4).
"""

from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import float4 as kernels
from ..kernels.lanes import LANES
from .base import BlockFormat
from .grid import codes_at
from .layout import bits

i, j = np.arange(32), np.arange(64)  # values of a block of MXFP4, and of NVFP4


@cache
def half_scales() -> NDArray[np.float32]:
    """What the scale codes of NVFP4 stand for, half of it, with LANES / 2 times NaN at both ends."""
    scales = np.empty(kernels.UE4M3_MAX_CODE + 1, np.float32)
    kernels.half_scales(scales)
    return np.pad(scales, LANES // 2, constant_values=np.nan)


class Float4(BlockFormat):
    """What the two have in common: the scale codes of the reference, or of all near them the best."""

    has_best = True
    size: ClassVar[int]  # values that share a scale

    def quantize(self, rows, importance, search, out):
        codes = np.empty((rows.size // self.type.block_size, self.type.block_size // self.size), np.uint8)
        self.reference_codes(rows, codes)
        if search == "best":
            self.best_codes(rows, importance, codes.reshape(len(rows), -1))
        self.pack(rows, codes, out)


class MXFP4(Float4):
    """32 values, the scale a power of two, 4.25 bpw."""

    name = "MXFP4"
    size = 32
    codes = codes_at(17, bits(4, 1 + i % 16, 4 * (i // 16)))

    def reference_codes(self, rows, codes):
        kernels.mxfp4_scale_codes(rows.reshape(-1, 32), codes)

    def best_codes(self, rows, importance, codes):
        kernels.best_exponents(rows, importance, codes)

    def pack(self, rows, codes, out):
        kernels.pack_mxfp4(rows.reshape(-1, 32), codes, out.reshape(-1, 17))

    def dequantize(self, data, out):
        kernels.unpack_mxfp4(data.reshape(-1, 17), out.reshape(-1, 32))


class NVFP4(Float4):
    """64 values, a float with 4 exponent and 3 mantissa bits as scale for every 16, 4.5 bpw."""

    name = "NVFP4"
    size = 16
    codes = codes_at(36, bits(4, 4 + 8 * (j // 16) + j % 8, 4 * (j // 8 % 2)))

    def reference_codes(self, rows, codes):
        kernels.nvfp4_scale_codes(rows.reshape(-1, 64), codes)

    def best_codes(self, rows, importance, codes):
        kernels.best_scale_codes(rows, importance, half_scales(), codes)

    def pack(self, rows, codes, out):
        kernels.pack_nvfp4(rows.reshape(-1, 64), codes, out.reshape(-1, 36))

    def dequantize(self, data, out):
        kernels.unpack_nvfp4(data.reshape(-1, 36), out.reshape(-1, 64))

"""MXFP4 and NVFP4: 4-bit floats with a scale for every 32 or 16 values. Importance is ignored.

Source: ggml-common.h `block_mxfp4`, `block_nvfp4`; OCP Microscaling Formats specification (MXFP4).
"""

from ..kernels import float4 as kernels
from .base import BlockFormat


class MXFP4(BlockFormat):
    """32 values, the scale a power of two, 4.25 bpw."""

    name = "MXFP4"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        kernels.pack_mxfp4(rows.reshape(-1, 32), out.reshape(-1, 17))

    def dequantize(self, data, out):
        kernels.unpack_mxfp4(data.reshape(-1, 17), out.reshape(-1, 32))


class NVFP4(BlockFormat):
    """64 values, a float with 4 exponent and 3 mantissa bits as scale for every 16, 4.5 bpw."""

    name = "NVFP4"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        kernels.pack_nvfp4(rows.reshape(-1, 64), out.reshape(-1, 36))

    def dequantize(self, data, out):
        kernels.unpack_nvfp4(data.reshape(-1, 36), out.reshape(-1, 64))

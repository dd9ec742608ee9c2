"""F32, F16 and BF16: no blocks, only a conversion."""

import numpy as np

from .base import BlockFormat


class F32(BlockFormat):
    name = "F32"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        out.view(np.float32)[:] = rows

    def dequantize(self, data, out):
        out[:] = data.view(np.float32)


class F16(BlockFormat):
    name = "F16"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        with np.errstate(over="ignore"):  # beyond 65504 becomes inf, as in the reference
            out.view(np.float16)[:] = rows

    def dequantize(self, data, out):
        out[:] = data.view(np.float16)


class BF16(BlockFormat):
    """The upper half of a float32, rounded to nearest even (ggml-impl.h `ggml_compute_fp32_to_bf16`)."""

    name = "BF16"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        bits = rows.view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
        out.view(np.uint16)[:] = rounded

    def dequantize(self, data, out):
        np.left_shift(data.view(np.uint16).astype(np.uint32), 16, out=out.view(np.uint32))

"""IQ1_BN and IQ2_BN: ternary weights, -1, 0 or 1 times one float for the whole row.

Layouts: ik_llama.cpp ggml-common.h `block_iq1_bn`, `block_iq2_bn`; quantizing: iqk_quantize.cpp `IQ1BNQuantizer`;
decoding: `dequantize_row_iq2_bn_r4`, which unlike `dequantize_row_iq1_bn` and `dequantize_row_iq2_bn` reads the scale.
"""

import numpy as np
from numpy.typing import NDArray

from .base import BlockFormat
from .layout import Layout, bits
from .tabulated import row_scales

F16_MAX = 65504.0
POWERS = 3 ** np.arange(5)
# Five trits t in a byte: ceil(256 n / 243) with n = t0 + 3 t1 + 9 t2 + 27 t3 + 81 t4.
BYTE_OF_NUMBER = ((256 * np.arange(243) + 242) // 243).astype(np.uint8)
# Multiplied by 3^(4 - i), the byte is ceil(256 / 243 ...) with trit i on top; times 3 / 256 is that trit.
TRITS_OF_BYTE = ((np.arange(256)[:, None] * POWERS[::-1] % 256) * 3 // 256).astype(np.int8)  # [256, 5]


def ternary(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scale f32 [n_rows], the largest magnitude, and codes 0, 1, 2 for -1, 0, 1: zero is what lies below half of it."""
    scale = np.abs(rows).max(axis=1)
    codes = np.where(np.abs(rows) < np.float32(0.5) * scale[:, None], 1, np.where(rows < 0, 0, 2))
    return scale, codes.astype(np.uint8)


class IQ1_BN(BlockFormat):
    """64 values in 13 bytes: for each 16, three bytes hold fifteen trits, the last byte holds every sixteenth."""

    name = "IQ1_BN"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        scale, codes = ternary(rows)
        scale = np.minimum(scale, F16_MAX).astype(np.float16)
        out[:, :2] = scale[:, None].view(np.uint8)
        codes = codes.reshape(len(rows), -1, 4, 16)
        packed = out[:, 2:].reshape(len(rows), -1, 13)
        packed[:, :, :12] = BYTE_OF_NUMBER[codes[..., :15].reshape(*codes.shape[:2], 12, 5) @ POWERS]
        packed[:, :, 12] = BYTE_OF_NUMBER[codes[..., 15] @ POWERS[:4]]
        out[:, 2:] = packed.reshape(len(rows), -1)

    def dequantize(self, data, out):
        packed = data[:, 2:].reshape(len(data), -1, 13)
        values = np.empty((*packed.shape[:2], 4, 16), np.int8)
        values[..., :15] = TRITS_OF_BYTE[packed[..., :12]].reshape(*packed.shape[:2], 4, 15)
        values[..., 15] = TRITS_OF_BYTE[packed[..., 12], :4]
        out[:] = row_scales(data, 2)[:, None] * (values.reshape(out.shape) - np.float32(1))


class IQ2_BN(BlockFormat):
    name = "IQ2_BN"
    importance = "ignored"
    n_codes = 3
    layout = codes = Layout(16, code=bits(2, np.arange(64) % 16, 2 * (np.arange(64) // 16)))

    def quantize(self, rows, importance, search, out):
        scale, codes = ternary(rows)
        out[:, :4] = scale[:, None].view(np.uint8)
        self.layout.pack({"code": codes.reshape(len(rows), -1, 64)}, out, 4)

    def dequantize(self, data, out):
        codes = self.layout.unpack(data, 4)["code"].reshape(out.shape)
        out[:] = row_scales(data, 4)[:, None] * (codes.astype(np.float32) - np.float32(1))

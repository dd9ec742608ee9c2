"""Q6_0, Q8_KV and Q8_K_R8: ik_llama.cpp's types with linear codes.

Layouts: ik_llama.cpp ggml-common.h `block_q6_0`, `block_q8_k_r8`; decoding: ggml-quants.c `dequantize_row_q6_0`,
iqk_quantize.cpp `dequantize_row_q8_KV`, `dequantize_row_q8_k_r8`; searches:
`quantize_q6_0`, `iqk_quantize_row_q8_KV`, `quantize_row_q8_K32`.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels.cumulative import symmetric_best
from ..kernels.lanes import LANES
from ..kernels.linear import two_sided_search
from ..kernels.tiles import as_tiles, n_tiles
from .base import BlockFormat
from .layout import Layout, bits, join
from .tabulated import from_tiles, to_magnitude_one, usable_importance

F16_MAX = np.float32(65504)


class Q6_0(BlockFormat):
    name = "Q6_0"
    has_best = True
    j = np.arange(32)
    layout = Layout(
        26,
        d=bits(16, 0),
        code=join(bits(4, 10 + j % 16, 4 * (j // 16)), bits(2, 2 + j % 8, 4 * (j // 8 % 2) + 2 * (j // 16))),
    )

    def quantize(self, rows, importance, search, out):
        x, exponents = to_magnitude_one(rows)
        weights = x * x
        if importance is not None:
            usable = usable_importance(x, importance, 32)
            weights = usable * np.sqrt(weights.mean(axis=1, keepdims=True) + weights)
        tiles = as_tiles(x.reshape(-1, 32))
        codes = np.empty(tiles.shape, np.uint8)
        scales = np.empty((len(tiles) // 32, LANES), np.float32)
        two_sided_search(tiles, as_tiles(weights.reshape(-1, 32)), 32, 32, codes, scales)
        with np.errstate(over="ignore"):
            d = np.ldexp(scales.reshape(-1)[: x.size // 32].reshape(len(rows), -1, 1), exponents[:, None, None])
        d = np.clip(d, -F16_MAX, F16_MAX).astype(np.float16)
        codes = from_tiles(codes, x.size // 32)
        if search == "best":
            d = better_scales(rows, importance, codes, d)
        self.layout.pack({"d": d.view(np.uint16), "code": codes.reshape(len(rows), -1, 32)}, out)

    def dequantize(self, data, out):
        expand_linear(self.layout.unpack(data), 32, out)


def better_scales(rows, importance, codes, d):
    """Improves Q6_0's codes u8 [n_blocks, 32]; the scales f16 that go with them, of the shape of `d`."""
    scales = np.zeros((n_tiles(d.size), LANES), np.float32)
    scales.reshape(-1)[: d.size] = d.reshape(-1)
    symmetric_best(rows.reshape(-1, 32), importance.reshape(-1, 32), 32, codes, scales)
    return scales.reshape(-1)[: d.size].astype(np.float16).reshape(d.shape)


class Q8_KV(BlockFormat):
    """One scale for the whole row, and the sum of its codes (for products with activations)."""

    name = "Q8_KV"
    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        d = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)  # [n_rows, 1]
        codes = rounded(rows, inverse(d))
        out[:, :4] = d.view(np.uint8)
        out[:, 4:8] = codes.sum(axis=1, keepdims=True, dtype=np.int32).view(np.uint8)
        out[:, 8:] = codes.view(np.uint8)

    def dequantize(self, data, out):
        d = np.ascontiguousarray(data[:, :4]).view(np.float32)
        np.multiply(d, data[:, 8:].view(np.int8), out=out)


class Q8_K_R8(BlockFormat):
    """Eight rows woven together; for each row one float16 scale per 256 values."""

    name = "Q8_K_R8"
    importance = "ignored"
    row = np.arange(8)[:, None]
    j = np.arange(256)
    layout = Layout(258, rows=8, d=bits(16, 2 * row), code=bits(8, 16 + 32 * (j // 4) + 4 * row + j % 4))

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(len(rows), -1, 256)
        largest = np.abs(blocks).max(axis=2, keepdims=True)
        codes = rounded(blocks, inverse(largest, 127))
        d = np.minimum(largest / np.float32(127), F16_MAX).astype(np.float16)
        self.layout.pack({"d": d.view(np.uint16), "code": codes.view(np.uint8)}, out)

    def dequantize(self, data, out):
        fields = self.layout.unpack(data)
        fields["code"] = fields["code"] ^ 128
        expand_linear(fields, 128, out)


def inverse(scale: NDArray[np.float32], numerator: float = 1) -> NDArray[np.float32]:
    """numerator / scale, 0 where that is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(numerator) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def rounded(values: NDArray[np.float32], inverse_scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """The nearest integers to values * inverse_scale, at most 127 in magnitude."""
    return np.clip(np.rint(values * inverse_scale), -127, 127).astype(np.int8)


def expand_linear(fields: dict[str, NDArray[np.uint16]], zero: int, out: NDArray[np.float32]) -> None:
    """out = d * (code - zero), for fields "d" (float16) and "code"."""
    d = np.ascontiguousarray(fields["d"]).view(np.float16).astype(np.float32)
    codes = fields["code"].astype(np.int32) - zero
    with np.errstate(invalid="ignore"):  # a file may hold any d
        np.multiply(d, codes.astype(np.float32), out=out.reshape(codes.shape))

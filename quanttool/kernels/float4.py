"""MXFP4 and NVFP4: 4-bit floats (E2M1) with a power of two, or a small float, as scale.

Follows ggml-quants.c `quantize_row_mxfp4_ref`, `quantize_row_nvfp4_ref` and ggml-impl.h's conversions. Values here are
twice those of E2M1, so that they are integers, and the scales half of those stored.
"""

import math

import numpy as np

from .blocks import largest_magnitude
from .jit import helper, kernel
from .rounding import float_bits, float_of

E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, -0.0, -1, -2, -3, -4, -6, -8, -12], np.float32)
MIDDLES = (E2M1[:7] + E2M1[1:8]) / np.float32(2)
UE4M3_MAX = np.float32(448)
UE4M3_MAX_CODE = np.uint8(0x7E)
E8M0_MAX_CODE = 252  # from here on twelve times the scale would overflow


@helper
def e8m0_half(code):
    """u8 -> f32, 2^(code - 128)."""
    return float_of(0x00200000 << code if code < 2 else (np.int32(code) - 1) << 23)


@helper
def e8m0_code(largest):
    """The largest magnitude of a block, f32 -> code of the scale that brings it to 2 or 3 bits, i32.

    The reference takes the logarithm in float32, which reaches an integer a few values early; magnitudes below 2^-125,
    where it wraps around, get the smallest scale.
    """
    if largest == 0:
        return np.int32(0)
    exponent = math.floor(np.float32(math.log2(np.float64(largest))))
    return np.int32(min(max(exponent - 2 + 127, 0), E8M0_MAX_CODE))


@helper
def ue4m3_half(code):
    """u8 -> f32, half of the small float with 4 exponent and 3 mantissa bits; 0x7F is no number and reads as 0."""
    exponent, mantissa = (code >> 3) & 15, code & 7
    if code == 0x7F or code == 0:
        return np.float32(0)
    if exponent == 0:
        return np.float32(mantissa) * np.float32(2.0**-10)
    return (np.float32(1) + np.float32(mantissa) / np.float32(8)) * float_of((np.int32(exponent) - 7 - 1 + 127) << 23)


@helper
def ue4m3_code(x):
    """f32 -> u8; rounds half up in the mantissa, and all from 256 on is 448, as in the reference."""
    bits = np.int32(float_bits(min(x, UE4M3_MAX)))
    exponent = (bits >> 23) - 127 + 7
    if exponent <= 0:
        return np.uint8(min(np.int32(x * np.float32(512) + np.float32(0.5)), 7))
    rounded = ((bits >> 20) & 7) + ((bits >> 19) & 1) + (exponent << 3)  # a mantissa of 8 carries into the exponent
    return UE4M3_MAX_CODE if rounded >= 15 << 3 else np.uint8(rounded)


@helper
def e2m1_code(x, scale):
    """f32 -> i32, the code of the nearest of E2M1 times `scale` > 0; the smaller of two, and never minus zero."""
    magnitude = abs(x)
    code = np.int32(0)
    for k in range(7):
        code += np.int32(magnitude > MIDDLES[k] * scale)
    return np.int32(code + 8) if x < 0 and code > 0 else code


@helper
def pack_e2m1(values, scale, qs):
    """values f32 [2 n] -> qs u8 [n]: low nibbles are the first half, high nibbles the second."""
    n = qs.size
    for j in range(n):
        qs[j] = np.uint8(e2m1_code(values[j], scale) | (e2m1_code(values[n + j], scale) << 4))


@helper
def unpack_e2m1(qs, scale, out):
    """qs u8 [n] -> out f32 [2 n]."""
    n = qs.size
    for j in range(n):
        out[j] = E2M1[qs[j] & 15] * scale
        out[n + j] = E2M1[qs[j] >> 4] * scale


@kernel
def pack_mxfp4(blocks, out):
    """blocks f32 [n_blocks, 32] -> out u8 [n_blocks, 17]: exponent, qs[16]."""
    for block in range(blocks.shape[0]):
        code = e8m0_code(largest_magnitude(blocks[block]))
        out[block, 0] = np.uint8(code)
        pack_e2m1(blocks[block], e8m0_half(code), out[block, 1:])


@kernel
def unpack_mxfp4(data, out):
    """data u8 [n_blocks, 17] -> out f32 [n_blocks, 32]."""
    for block in range(data.shape[0]):
        unpack_e2m1(data[block, 1:], e8m0_half(data[block, 0]), out[block])


@kernel
def pack_nvfp4(blocks, out):
    """blocks f32 [n_blocks, 64] -> out u8 [n_blocks, 36]: four scales, for 16 values each, qs[32]."""
    for block in range(blocks.shape[0]):
        for k in range(4):
            values = blocks[block, 16 * k : 16 * k + 16]
            code = ue4m3_code(largest_magnitude(values) / np.float32(6))
            qs = out[block, 4 + 8 * k : 12 + 8 * k]
            out[block, k] = code
            if code == 0:
                qs[:] = 0
            else:
                pack_e2m1(values, ue4m3_half(code), qs)


@kernel
def unpack_nvfp4(data, out):
    """data u8 [n_blocks, 36] -> out f32 [n_blocks, 64]."""
    for block in range(data.shape[0]):
        for k in range(4):
            scale = ue4m3_half(data[block, k])
            unpack_e2m1(data[block, 4 + 8 * k : 12 + 8 * k], scale, out[block, 16 * k : 16 * k + 16])

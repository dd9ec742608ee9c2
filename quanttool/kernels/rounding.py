"""Rounding and small floats: float32 to nearest integer, to float16 bits and back.

Scalar helpers without branches, so that LLVM turns them into vector code where they stand in a loop over lanes. All
take and give 32-bit scalars. (In numba int32 + int32 is int64 and int32 * float32 is float64: hence the conversions.)
"""

import numpy as np

from .jit import helper

ROUNDING_MAGIC = np.float32(3 << 22)  # 12582912: up here one unit in the last place is 1, so adding rounds to integers

F16_EXPONENT = np.int32(0x7C00 << 13)  # the exponent field of a float16, moved to float32's place
F16_BIAS_ADJUST = np.int32((127 - 15) << 23)
F16_SPECIAL_ADJUST = np.int32((255 - 31) << 23)
F16_MIN_NORMAL = np.float32(2.0**-14)
F16_MIN_NORMAL_BITS = np.int32((127 - 14) << 23)
F16_INFINITY_BITS = np.int32((127 + 16) << 23)  # 65536: from here on no float16 is near
F16_LARGEST = np.nextafter(np.float32(65520), np.float32(0))  # the largest float32 that rounds to a finite float16
F16_SUBNORMAL_MAGIC = np.float32(0.5)  # here one unit in the last place is 2^-24, that of float16's subnormals
F16_SUBNORMAL_MAGIC_BITS = np.int32((127 - 1) << 23)
F32_INFINITY_BITS = np.int32(255 << 23)


@helper
def float_bits(x):
    """The bits of f32 x, as i32."""
    return np.float32(x).view(np.int32)


@helper
def float_of(bits):
    """The f32 whose bits are the low 32 of `bits`."""
    return np.int32(bits).view(np.float32)


@helper
def nearest_int(x):
    """f32 -> i32, ties to even; meaningful for |x| <= 2^22 only (ggml-quants.c `nearest_int`)."""
    return np.int32((float_bits(x + ROUNDING_MAGIC) & 0x007FFFFF) - 0x00400000)


@helper
def nearest(x):
    """f32 -> f32 that holds `nearest_int(x)`, for |x| <= 2^22; an integer zero is +0."""
    return (x + ROUNDING_MAGIC) - ROUNDING_MAGIC


@helper
def f16_bits(x):
    """f32 -> i32 with the bits of the nearest float16, ties to even; from 65520 on infinity, NaN stays NaN."""
    bits = float_bits(x)
    magnitude = np.int32(bits & 0x7FFFFFFF)
    odd = (magnitude >> 13) & 1
    normal = np.int32((magnitude - F16_BIAS_ADJUST + 0xFFF + odd) >> 13)
    subnormal = np.int32(float_bits(float_of(magnitude) + F16_SUBNORMAL_MAGIC) - F16_SUBNORMAL_MAGIC_BITS)
    half = subnormal if magnitude < F16_MIN_NORMAL_BITS else normal
    half = half if magnitude < F16_INFINITY_BITS else np.int32(0x7C00)
    half = half if magnitude <= F32_INFINITY_BITS else np.int32(0x7E00)
    return np.int32(half | ((bits >> 16) & 0x8000))


@helper
def f16_value(bits):
    """i32 with the bits of a float16 -> f32, exact."""
    moved = np.int32((bits & 0x7FFF) << 13)
    exponent = np.int32(moved & F16_EXPONENT)
    normal = float_of(moved + F16_BIAS_ADJUST)
    subnormal = float_of(moved + F16_MIN_NORMAL_BITS) - F16_MIN_NORMAL
    special = float_of(moved + F16_SPECIAL_ADJUST)  # infinity or NaN
    value = subnormal if exponent == 0 else normal
    value = special if exponent == F16_EXPONENT else value
    return float_of(float_bits(value) | ((bits & 0x8000) << 16))


@helper
def within_f16(x):
    """f32 -> f32, held within what rounds to a finite float16; smaller values and NaN are untouched."""
    x = F16_LARGEST if x > F16_LARGEST else x
    return -F16_LARGEST if x < -F16_LARGEST else x


@helper
def store_f16(x, out, at):
    """Write f32 x as a float16, two little-endian bytes, into out u8[...] at index `at`."""
    bits = f16_bits(x)
    out[at] = np.uint8(bits & 0xFF)
    out[at + 1] = np.uint8(bits >> 8)


@helper
def load_f16(data, at):
    """The float16 in two little-endian bytes of data u8[...] at index `at`, as f32."""
    return f16_value(np.int32(data[at] | (np.int32(data[at + 1]) << 8)))

"""MXFP4 and NVFP4: 4-bit floats (E2M1) with a power of two, or a small float, as scale.

Follows ggml-quants.c `quantize_row_mxfp4_ref`, `quantize_row_nvfp4_ref` and ggml-impl.h's conversions. Values here are
twice those of E2M1, so that they are integers, and the scales half of those stored.
"""

import math

import numpy as np

from .blocks import largest_magnitude
from .jit import helper, kernel, leaf
from .lanes import (
    LANES,
    any_lane,
    bit_lanes,
    broadcast,
    lanes_of_bits,
    load,
    load_8,
    load_16,
    lookup,
    magnitude,
    multiply_add,
    select,
    smaller,
    store,
    sum_lanes,
)
from .rounding import float_bits, float_of

E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
MIDDLES = (E2M1[:7] + E2M1[1:8]) / np.float32(2)
EXPONENT, BITS_DROPPED = np.int32(0x7F800000), np.int32(22 << 23)
UE4M3_MAX = np.float32(448)
UE4M3_MAX_CODE = np.uint8(0x7E)
ALMOST_TWO = 0x7FFF00  # mantissas up to here have a logarithm that is less than 1 in float32, too
NOTICEABLE = np.float32(1 + 1e-5)  # an error has to be lower by more than rounding makes of it
SMALLEST_ERROR = np.float32(1e-30)
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
    bits = float_bits(largest)
    exponent = (bits >> 23) - 127
    if (bits & 0x7FFFFF) > ALMOST_TWO or exponent < -126:
        exponent = np.int32(math.floor(np.float32(math.log2(np.float64(largest)))))
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
def e2m1_codes(x, scale):
    """Codes of the nearest of E2M1 times `scale` > 0, for lanes x; the smaller of two, and never minus zero."""
    size = magnitude(x)
    zero = bit_lanes(x) & 0
    code = zero
    for k in range(7):
        code = select(size > MIDDLES[k] * scale, zero | k + 1, code)
    return select(x < -MIDDLES[0] * scale, code | 8, code)


@kernel
def mxfp4_scale_codes(blocks, codes):
    """Scale codes u8 [n_blocks, 1] as the reference chooses them, for blocks f32 [n_blocks, 32]."""
    for block in range(blocks.shape[0]):
        codes[block, 0] = np.uint8(e8m0_code(largest_magnitude(blocks[block])))


@kernel
def pack_mxfp4(blocks, scale_codes, out):
    """blocks f32 [n_blocks, 32] -> out u8 [n_blocks, 17]: exponent, qs[16] with value j low and value j + 16 high."""
    for block in range(blocks.shape[0]):
        x = blocks[block]
        scale = e8m0_half(np.int32(scale_codes[block, 0]))
        out[block, 0] = scale_codes[block, 0]
        store(out[block], 1, e2m1_codes(load_16(x, 0), scale) | e2m1_codes(load_16(x, 16), scale) << 4)


@kernel
def unpack_mxfp4(data, out):
    """data u8 [n_blocks, 17] -> out f32 [n_blocks, 32]."""
    for block in range(data.shape[0]):
        scale = e8m0_half(data[block, 0])
        codes = load_16(data[block], 1)
        store(out[block], 0, lookup(codes & 15, E2M1) * scale)
        store(out[block], 16, lookup(codes >> 4, E2M1) * scale)


@kernel
def nvfp4_scale_codes(blocks, codes):
    """Scale codes u8 [n_blocks, 4] as the reference chooses them, for blocks f32 [n_blocks, 64]."""
    for block in range(blocks.shape[0]):
        for k in range(4):
            codes[block, k] = ue4m3_code(largest_magnitude(blocks[block, 16 * k : 16 * k + 16]) / np.float32(6))


@kernel
def pack_nvfp4(blocks, scale_codes, out):
    """blocks f32 [n_blocks, 64] -> out u8 [n_blocks, 36]: four scales, for 16 values each, qs[32].

    8 bytes for each 16 values, value j low and value j + 8 high.
    """
    for block in range(blocks.shape[0]):
        x = blocks[block]
        for k in range(4):
            code = scale_codes[block, k]
            scale = ue4m3_half(code) if code else np.float32(np.inf)  # all codes are 0 then
            low, high = load_8(x, 16 * k), load_8(x, 16 * k + 8)
            out[block, k] = code
            store(out[block], 4 + 8 * k, e2m1_codes(low, scale) | e2m1_codes(high, scale) << 4)


@kernel
def unpack_nvfp4(data, out):
    """data u8 [n_blocks, 36] -> out f32 [n_blocks, 64]."""
    for block in range(data.shape[0]):
        for k in range(4):
            scale = ue4m3_half(data[block, k])
            codes = load_8(data[block], 4 + 8 * k)
            store(out[block], 16 * k, lookup(codes & 15, E2M1) * scale)
            store(out[block], 16 * k + 8, lookup(codes >> 4, E2M1) * scale)


@kernel
def half_scales(scales):
    """What NVFP4's scale codes stand for, half of it: f32 [UE4M3_MAX_CODE + 1], written."""
    for code in range(scales.size):
        scales[code] = ue4m3_half(np.uint8(code))


@leaf
def nearest_level(y):
    """Lanes of magnitudes y to the nearest of E2M1: from 2 on two bits are kept, below integers; 12 is the largest."""
    exponent = bit_lanes(select(y > 2, y, 2)) & EXPONENT
    magic = lanes_of_bits(exponent + BITS_DROPPED)
    return smaller((y + magic) - magic, 12)


@leaf
def errors_of_scales(x, weight, scales, first):
    """Weighted squared errors with the scales from number `first` on, one per lane."""
    scale = load(scales, first)
    inverse = 1 / scale
    total = broadcast(0)
    for i in range(x.size):
        size = abs(x[i])
        off = size - nearest_level(size * inverse) * scale
        total = multiply_add(off * off, weight[i], total)
    return total


@kernel
def best_scale_codes(rows, importance, scales, codes):
    """Scale codes of least weighted error near the given ones: all from LANES / 2 below to LANES / 2 - 1 above.

    rows:        f32 [n_rows, n_cols]
    importance:  f32 [n_cols]
    scales:      f32 [LANES / 2 + n_codes + LANES / 2], NaN in the first and last LANES / 2
    codes:       u8 [n_rows, n_scales], replaced where the error falls for certain
    """
    size = rows.shape[1] // codes.shape[1]
    errors = np.empty(LANES, np.float32)
    for row in range(rows.shape[0]):
        for k in range(codes.shape[1]):
            x, weight = rows[row, size * k : size * (k + 1)], importance[size * k : size * (k + 1)]
            code = np.int64(codes[row, k])
            store(errors, 0, errors_of_scales(x, weight, scales, code))
            least = errors[LANES // 2]
            if least < SMALLEST_ERROR:  # too small to be told from others
                continue
            for lane in range(LANES):
                if errors[lane] * NOTICEABLE < least:
                    least = errors[lane]
                    codes[row, k] = np.uint8(code + lane - LANES // 2)


@leaf
def error_of_block(size, weight, scale):
    """Weighted squared error of the magnitudes of a block, one per lane, and what those beyond the top cost of it."""
    off = size - nearest_level(size / scale) * scale
    beyond = size - 12 * scale
    error = off * off * weight
    return sum_lanes(error), sum_lanes(select(beyond > 0, error, 0))


@kernel
def best_exponents(rows, importance, codes):
    """MXFP4's scale codes of least weighted error, of all that there are.

    Twice a scale has no value that the scale itself lacks but those beyond 12, which are nearest to magnitudes beyond
    14 alone: larger scales are tried only while there are such. With smaller ones the values beyond 12 cost ever more:
    when these alone cost more than the best so far, no smaller scale can be better.

    rows f32 [n_rows, n_cols], importance f32 [n_cols]; codes u8 [n_rows, n_blocks], replaced where the error falls for
    certain.
    """
    for row in range(rows.shape[0]):
        for k in range(codes.shape[1]):
            size, weight = magnitude(load(rows[row], 32 * k)), load(importance, 32 * k)
            code = best = np.int64(codes[row, k])
            least, beyond = error_of_block(size, weight, e8m0_half(np.int32(code)))
            if least < SMALLEST_ERROR:  # too small to be told from others
                continue
            higher = code
            while higher < E8M0_MAX_CODE and any_lane(size > 14 * e8m0_half(np.int32(higher))):
                higher += 1
                error, _ = error_of_block(size, weight, e8m0_half(np.int32(higher)))
                if error * NOTICEABLE < least:
                    least, best = error, higher
            while code > 0 and beyond < least:
                code -= 1
                error, beyond = error_of_block(size, weight, e8m0_half(np.int32(code)))
                if error * NOTICEABLE < least:
                    least, best = error, code
            codes[row, k] = np.uint8(best)

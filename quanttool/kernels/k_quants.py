"""The bytes of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K: super-blocks of 256 values (ggml-common.h `block_q2_K` and so on).

`_pack` makes blocks u8 [n_blocks, block_bytes] of what super_blocks.py found: codes u8 [n_tiles, 256, LANES], integers
for the sub-blocks' scales f32 [n_tiles, n_sub, LANES], float16 bits of the super-blocks' scales i32 [n_tiles, LANES].
`_unpack` takes blocks to values f32 [n_blocks, 256].
"""

import numpy as np

from .jit import helper, kernel
from .lanes import LANES, float_lanes, int_lanes, load, load_16, store
from .rounding import load_f16
from .tiles import store_tile


@helper
def store_half(bits, tile, at):
    """Lanes of float16 bits, as two little-endian bytes."""
    store(tile, at, bits)
    store(tile, at + 1, bits >> 8)


# --- Q4_K: f16 d, f16 dmin, scales[12], qs[128]; Q5_K has qh[32] before qs ------------------------------------------


@helper
def store_scales_and_mins(scales, mins, tile, at):
    """Eight 6-bit scales and eight 6-bit minimums in 12 bytes: the upper two bits of the last four fill gaps."""
    for j in range(4):
        scale, minimum = int_lanes(load(scales, j)), int_lanes(load(mins, j))
        scale4, minimum4 = int_lanes(load(scales, j + 4)), int_lanes(load(mins, j + 4))
        store(tile, at + j, scale | (scale4 >> 4) << 6)
        store(tile, at + 4 + j, minimum | (minimum4 >> 4) << 6)
        store(tile, at + 8 + j, (scale4 & 15) | (minimum4 & 15) << 4)


@helper
def scale_and_min(data, j):
    """The j-th 6-bit scale and minimum in 12 bytes (`get_scale_min_k4`)."""
    if j < 4:
        return np.int32(data[j] & 63), np.int32(data[j + 4] & 63)
    scale = (data[j + 4] & 15) | (data[j - 4] >> 6) << 4
    minimum = (data[j + 4] >> 4) | (data[j] >> 6) << 4
    return np.int32(scale), np.int32(minimum)


@helper
def store_nibbles(codes, tile, at):
    """256 codes, their four low bits: byte l of 32 holds values l and l + 32 of 64."""
    for pair in range(4):
        for l in range(32):
            low, high = load(codes, 64 * pair + l), load(codes, 64 * pair + 32 + l)
            store(tile, at + 32 * pair + l, (low & 15) | high << 4)


@helper
def store_upper_bits(codes, shift, tile, at):
    """256 codes, the bit above the `shift` lower ones: bit k of byte l of 32 is that of value l + 32 k."""
    for l in range(32):
        bits = load(codes, l) >> shift
        for k in range(1, 8):
            bits |= (load(codes, 32 * k + l) >> shift) << k
        store(tile, at + l, bits)


@kernel
def q4_k_pack(codes, scales, mins, d, dmin, blocks):
    tile = np.empty((144, LANES), np.uint8)
    for n in range(d.shape[0]):
        store_half(load(d, n), tile, 0)
        store_half(load(dmin, n), tile, 2)
        store_scales_and_mins(scales[n], mins[n], tile, 4)
        store_nibbles(codes[n], tile, 16)
        store_tile(tile, n * LANES, blocks)


@kernel
def q4_k_unpack(data, out):
    for b in range(data.shape[0]):
        d, dmin = load_f16(data[b], 0), load_f16(data[b], 2)
        for pair in range(4):
            scale, minimum = scale_and_min(data[b, 4:], 2 * pair)
            scale2, minimum2 = scale_and_min(data[b, 4:], 2 * pair + 1)
            s, m = d * np.float32(scale), dmin * np.float32(minimum)
            s2, m2 = d * np.float32(scale2), dmin * np.float32(minimum2)
            for j in range(32):
                q = np.int32(data[b, 16 + 32 * pair + j])
                out[b, 64 * pair + j] = s * np.float32(q & 15) - m
                out[b, 64 * pair + 32 + j] = s2 * np.float32(q >> 4) - m2


@kernel
def q5_k_pack(codes, scales, mins, d, dmin, blocks):
    tile = np.empty((176, LANES), np.uint8)
    for n in range(d.shape[0]):
        store_half(load(d, n), tile, 0)
        store_half(load(dmin, n), tile, 2)
        store_scales_and_mins(scales[n], mins[n], tile, 4)
        store_upper_bits(codes[n], 4, tile, 16)
        store_nibbles(codes[n], tile, 48)
        store_tile(tile, n * LANES, blocks)


@kernel
def q5_k_unpack(data, out):
    for b in range(data.shape[0]):
        d, dmin = load_f16(data[b], 0), load_f16(data[b], 2)
        for pair in range(4):
            scale, minimum = scale_and_min(data[b, 4:], 2 * pair)
            scale2, minimum2 = scale_and_min(data[b, 4:], 2 * pair + 1)
            s, m = d * np.float32(scale), dmin * np.float32(minimum)
            s2, m2 = d * np.float32(scale2), dmin * np.float32(minimum2)
            for j in range(32):
                q, fifth = np.int32(data[b, 48 + 32 * pair + j]), np.int32(data[b, 16 + j]) >> (2 * pair)
                out[b, 64 * pair + j] = s * np.float32((q & 15) | (fifth & 1) << 4) - m
                out[b, 64 * pair + 32 + j] = s2 * np.float32((q >> 4) | (fifth & 2) << 3) - m2


# --- Q2_K: scales[16] (low nibble scale, high nibble minimum, per 16 values), qs[64], f16 d, f16 dmin ----------------


@helper
def store_two_bits(codes, tile, at):
    """256 codes, their two low bits: byte l of 32 holds values l, l + 32, l + 64, l + 96 of 128."""
    for half in range(2):
        for l in range(32):
            first = 128 * half + l
            bits = load(codes, first) & 3
            for k in range(1, 4):
                bits |= (load(codes, first + 32 * k) & 3) << (2 * k)
            store(tile, at + 32 * half + l, bits)


@kernel
def q2_k_pack(codes, scales, mins, d, dmin, blocks):
    tile = np.empty((84, LANES), np.uint8)
    for n in range(d.shape[0]):
        for j in range(16):
            store(tile, j, int_lanes(load(scales[n], j)) | int_lanes(load(mins[n], j)) << 4)
        store_two_bits(codes[n], tile, 16)
        store_half(load(d, n), tile, 80)
        store_half(load(dmin, n), tile, 82)
        store_tile(tile, n * LANES, blocks)


@kernel
def q2_k_unpack(data, out):
    for b in range(data.shape[0]):
        d, dmin = load_f16(data[b], 80), load_f16(data[b], 82)
        for sub in range(16):
            scale = d * np.float32(data[b, sub] & 15)
            minimum = dmin * np.float32(data[b, sub] >> 4)
            first = 16 + sub // 8 * 32 + sub % 2 * 16
            shift = sub % 8 // 2 * 2
            q = (load_16(data[b], first) >> shift) & 3
            store(out[b], 16 * sub, scale * float_lanes(q) - minimum)


# --- Q3_K: hmask[32] (third bit), qs[64], scales[12] (16 times 6 bits), f16 d ---------------------------------------


@helper
def six_bits(scales, i):
    """A scale's integer -32 .. 31 as it is stored."""
    return int_lanes(load(scales, i)) + 32


@kernel
def q3_k_pack(codes, scales, d, blocks):
    tile = np.empty((110, LANES), np.uint8)
    for n in range(d.shape[0]):
        store_upper_bits(codes[n], 2, tile, 0)
        store_two_bits(codes[n], tile, 32)
        for j in range(8):
            low, high = six_bits(scales[n], j), six_bits(scales[n], j + 8)
            store(tile, 96 + j, (low & 15) | (high & 15) << 4)
        for j in range(4):
            upper = six_bits(scales[n], j) >> 4
            for k in range(1, 4):
                upper |= (six_bits(scales[n], j + 4 * k) >> 4) << (2 * k)
            store(tile, 104 + j, upper)
        store_half(load(d, n), tile, 108)
        store_tile(tile, n * LANES, blocks)


@kernel
def q3_k_unpack(data, out):
    for b in range(data.shape[0]):
        d = load_f16(data[b], 108)
        for sub in range(16):
            low = (data[b, 96 + sub % 8] >> (sub // 8 * 4)) & 15
            upper = (data[b, 104 + sub % 4] >> (sub // 4 * 2)) & 3
            scale = d * np.float32(np.int32(low | upper << 4) - 32)
            column = sub % 2 * 16
            first = 32 + sub // 8 * 32 + column
            shift = sub % 8 // 2 * 2
            q = (load_16(data[b], first) >> shift) & 3
            third = (load_16(data[b], column) >> (sub // 2)) & 1
            store(out[b], 16 * sub, scale * float_lanes(q + third * 4 - 4))


# --- Q6_K: ql[128], qh[64], i8 scales[16], f16 d --------------------------------------------------------------------


@kernel
def q6_k_pack(codes, scales, d, blocks):
    tile = np.empty((210, LANES), np.uint8)
    for n in range(d.shape[0]):
        for half in range(2):
            for l in range(32):
                first = 128 * half + l
                q1, q2 = load(codes[n], first), load(codes[n], first + 32)
                q3, q4 = load(codes[n], first + 64), load(codes[n], first + 96)
                store(tile, 64 * half + l, (q1 & 15) | (q3 & 15) << 4)
                store(tile, 64 * half + 32 + l, (q2 & 15) | (q4 & 15) << 4)
                upper = (q1 >> 4) | (q2 >> 4) << 2 | (q3 >> 4) << 4 | (q4 >> 4) << 6
                store(tile, 128 + 32 * half + l, upper)
        for j in range(16):
            store(tile, 192 + j, int_lanes(load(scales[n], j)))
        store_half(load(d, n), tile, 208)
        store_tile(tile, n * LANES, blocks)


@kernel
def q6_k_unpack(data, out):
    for b in range(data.shape[0]):
        d = load_f16(data[b], 208)
        for sub in range(16):
            half, quarter, column = sub // 8, sub % 8 // 2, sub % 2 * 16
            scale = d * np.float32(np.int8(data[b, 192 + sub]))
            first = 64 * half + quarter % 2 * 32 + column
            low = (load_16(data[b], first) >> (quarter // 2 * 4)) & 15
            upper = (load_16(data[b], 128 + 32 * half + column) >> (2 * quarter)) & 3
            store(out[b], 16 * sub, scale * float_lanes((low | upper << 4) - 32))

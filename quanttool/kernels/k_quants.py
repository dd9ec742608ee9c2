"""The bytes of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K: super-blocks of 256 values (ggml-common.h `block_q2_K` and so on).

`_pack` works on tiles: codes u8 [n_tiles * 256, LANES]; the integers that stand for the sub-blocks' scales, f32
[n_tiles * n_sub, LANES]; float16 bits of the super-block's scales d and dmin, i32 [n_tiles, LANES]; and gives tiles of
bytes u8 [n_tiles * block_bytes, LANES]. `_unpack` takes blocks u8 [n_blocks, block_bytes] to f32 [n_blocks, 256].
"""

import numpy as np

from .jit import helper, kernel
from .lanes import int_lanes, load, store
from .rounding import load_f16


@helper
def store_half(bits, tile, at):
    """Lanes of float16 bits, as two little-endian bytes."""
    store(tile, at, bits)
    store(tile, at + 1, bits >> 8)


# --- Q4_K: f16 d, f16 dmin, scales[12], qs[128]; Q5_K has qh[32] before qs ------------------------------------------


@helper
def store_scales_and_mins(scales, mins, first, tile, at):
    """Eight 6-bit scales and eight 6-bit minimums in 12 bytes: the upper two bits of the last four fill gaps."""
    for j in range(4):
        scale, minimum = int_lanes(load(scales, first + j)), int_lanes(load(mins, first + j))
        scale4, minimum4 = int_lanes(load(scales, first + j + 4)), int_lanes(load(mins, first + j + 4))
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


@kernel
def q4_k_pack(codes, scales, mins, d, dmin, tiles):
    for n in range(d.shape[0]):
        at, code = 144 * n, 256 * n
        store_half(load(d, n), tiles, at)
        store_half(load(dmin, n), tiles, at + 2)
        store_scales_and_mins(scales, mins, 8 * n, tiles, at + 4)
        for pair in range(4):
            for j in range(32):
                low, high = load(codes, code + 64 * pair + j), load(codes, code + 64 * pair + 32 + j)
                store(tiles, at + 16 + 32 * pair + j, low | high << 4)


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
def q5_k_pack(codes, scales, mins, d, dmin, tiles):
    for n in range(d.shape[0]):
        at, code = 176 * n, 256 * n
        store_half(load(d, n), tiles, at)
        store_half(load(dmin, n), tiles, at + 2)
        store_scales_and_mins(scales, mins, 8 * n, tiles, at + 4)
        for j in range(32):
            fifth = load(codes, code + j) >> 4
            for sub in range(1, 8):
                fifth |= (load(codes, code + 32 * sub + j) >> 4) << sub
            store(tiles, at + 16 + j, fifth)
        for pair in range(4):
            for j in range(32):
                low, high = load(codes, code + 64 * pair + j), load(codes, code + 64 * pair + 32 + j)
                store(tiles, at + 48 + 32 * pair + j, (low & 15) | high << 4)


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
def store_two_bits(codes, code, tiles, at):
    """256 codes, their two low bits, in 64 bytes: byte l of a half holds values l, l + 32, l + 64, l + 96."""
    for half in range(2):
        for l in range(32):
            first = code + 128 * half + l
            packed = load(codes, first) & 3
            for k in range(1, 4):
                packed |= (load(codes, first + 32 * k) & 3) << (2 * k)
            store(tiles, at + 32 * half + l, packed)


@kernel
def q2_k_pack(codes, scales, mins, d, dmin, tiles):
    for n in range(d.shape[0]):
        at = 84 * n
        for j in range(16):
            store(tiles, at + j, int_lanes(load(scales, 16 * n + j)) | int_lanes(load(mins, 16 * n + j)) << 4)
        store_two_bits(codes, 256 * n, tiles, at + 16)
        store_half(load(d, n), tiles, at + 80)
        store_half(load(dmin, n), tiles, at + 82)


@kernel
def q2_k_unpack(data, out):
    for b in range(data.shape[0]):
        d, dmin = load_f16(data[b], 80), load_f16(data[b], 82)
        for sub in range(16):
            scale = d * np.float32(data[b, sub] & 15)
            minimum = dmin * np.float32(data[b, sub] >> 4)
            first = 16 + sub // 8 * 32 + sub % 2 * 16
            shift = sub % 8 // 2 * 2
            for j in range(16):
                q = (np.int32(data[b, first + j]) >> shift) & 3
                out[b, 16 * sub + j] = scale * np.float32(q) - minimum


# --- Q3_K: hmask[32] (third bit), qs[64], scales[12] (16 times 6 bits), f16 d ---------------------------------------


@helper
def six_bits(scales, i):
    """A scale's integer -32 .. 31 as it is stored."""
    return int_lanes(load(scales, i)) + 32


@kernel
def q3_k_pack(codes, scales, d, tiles):
    for n in range(d.shape[0]):
        at, code = 110 * n, 256 * n
        for j in range(32):
            third = load(codes, code + j) >> 2
            for k in range(1, 8):
                third |= (load(codes, code + 32 * k + j) >> 2) << k
            store(tiles, at + j, third)
        store_two_bits(codes, code, tiles, at + 32)
        for j in range(8):
            low, high = six_bits(scales, 16 * n + j), six_bits(scales, 16 * n + j + 8)
            store(tiles, at + 96 + j, (low & 15) | (high & 15) << 4)
        for j in range(4):
            upper = six_bits(scales, 16 * n + j) >> 4
            for k in range(1, 4):
                upper |= (six_bits(scales, 16 * n + j + 4 * k) >> 4) << (2 * k)
            store(tiles, at + 104 + j, upper)
        store_half(load(d, n), tiles, at + 108)


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
            for j in range(16):
                q = (np.int32(data[b, first + j]) >> shift) & 3
                third = (np.int32(data[b, column + j]) >> (sub // 2)) & 1
                out[b, 16 * sub + j] = scale * np.float32(q + 4 * third - 4)


# --- Q6_K: ql[128], qh[64], i8 scales[16], f16 d --------------------------------------------------------------------


@kernel
def q6_k_pack(codes, scales, d, tiles):
    for n in range(d.shape[0]):
        at = 210 * n
        for half in range(2):
            for l in range(32):
                code = 256 * n + 128 * half + l
                q1, q2 = load(codes, code), load(codes, code + 32)
                q3, q4 = load(codes, code + 64), load(codes, code + 96)
                store(tiles, at + 64 * half + l, (q1 & 15) | (q3 & 15) << 4)
                store(tiles, at + 64 * half + 32 + l, (q2 & 15) | (q4 & 15) << 4)
                upper = (q1 >> 4) | (q2 >> 4) << 2 | (q3 >> 4) << 4 | (q4 >> 4) << 6
                store(tiles, at + 128 + 32 * half + l, upper)
        for j in range(16):
            store(tiles, at + 192 + j, int_lanes(load(scales, 16 * n + j)))
        store_half(load(d, n), tiles, at + 208)


@kernel
def q6_k_unpack(data, out):
    for b in range(data.shape[0]):
        d = load_f16(data[b], 208)
        for sub in range(16):
            half, quarter, column = sub // 8, sub % 8 // 2, sub % 2 * 16
            scale = d * np.float32(np.int8(data[b, 192 + sub]))
            first = 64 * half + quarter % 2 * 32 + column
            for j in range(16):
                low = (np.int32(data[b, first + j]) >> (quarter // 2 * 4)) & 15
                upper = (np.int32(data[b, 128 + 32 * half + column + j]) >> (2 * quarter)) & 3
                out[b, 16 * sub + j] = scale * np.float32((low | upper << 4) - 32)

"""The formats of 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (ggml-common.h `block_q4_0` and its neighbours).

Low nibbles hold the first 16 values, high nibbles the second 16; fifth bits are one 32-bit word, bit j for value j.
"""

import numpy as np

from .jit import helper, kernel
from .lanes import (
    LANES,
    float_lanes,
    int_lanes,
    larger,
    largest_lane,
    load,
    load_16,
    mask_bits,
    select,
    smaller,
    smallest_lane,
    store,
)
from .rounding import load_f16, store_f16, within_f16
from .scales import affine_search, symmetric_search
from .super_blocks import weigh_by_importance
from .tiles import load_tile, store_tile

HALF = np.float32(0.5)
ALMOST_HALF = np.float32(0.49999997)  # the float32 before 0.5: what 0.5 would do, except to 0.49999997 itself


# --- without importance: the block's own range decides ---------------------------------------------------------------


@helper
def finite_inverse(d):
    """1 / d; 0 where that is not finite."""
    inverse = np.float32(1) / d
    return inverse if abs(inverse) < np.inf else np.float32(0)


@helper
def range_of(low, high):
    """Smallest and largest of twice 16 values; which of 0 and -0 is not certain."""
    return smallest_lane(smaller(low, high)), largest_lane(larger(low, high))


@helper
def first_of_magnitude(values, magnitude):
    """The first of the values with this magnitude."""
    for value in values:
        if abs(value) == magnitude:
            return value
    return magnitude


@kernel
def symmetric_range(blocks, n, codes, d):
    """Codes 0 .. 2 n - 1 and scale such that the (first) value of largest magnitude gets code 0.

    blocks f32 [n_blocks, 32], codes u8 likewise, d f32 [n_blocks] (ggml-quants.c `quantize_row_q4_0_ref`).
    """
    for b in range(blocks.shape[0]):
        low, high = load_16(blocks[b], 0), load_16(blocks[b], 16)
        smallest, largest = range_of(low, high)
        extreme = largest if largest > -smallest else smallest
        if largest == -smallest:
            extreme = first_of_magnitude(blocks[b], largest) if largest > 0 else np.float32(0)  # never -0
        scale = extreme / np.float32(-n)
        inverse = finite_inverse(scale)
        shift = np.float32(0) if scale != 0 and inverse == 0 else np.float32(n) + HALF  # overflow makes 0 of all codes
        store(codes[b], 0, int_lanes(smaller(low * inverse + shift, 2 * n - 1)))
        store(codes[b], 16, int_lanes(smaller(high * inverse + shift, 2 * n - 1)))
        d[b] = scale


@kernel
def affine_range(blocks, max_code, codes, d, m):
    """Codes 0 .. max_code spread from the smallest to the largest value.

    blocks f32 [n_blocks, 32], codes u8 likewise, scale d and minimum m f32 [n_blocks]
    (ggml-quants.c `quantize_row_q4_1_ref`).
    """
    for b in range(blocks.shape[0]):
        low, high = load_16(blocks[b], 0), load_16(blocks[b], 16)
        minimum, largest = range_of(low, high)
        if minimum == 0:  # of 0 and -0, the one that comes first
            minimum = first_of_magnitude(blocks[b], minimum)
        scale = abs(largest - minimum) / np.float32(max_code)
        inverse = finite_inverse(scale)
        store(codes[b], 0, int_lanes(smaller((low - minimum) * inverse + HALF, max_code)))
        store(codes[b], 16, int_lanes(smaller((high - minimum) * inverse + HALF, max_code)))
        d[b], m[b] = scale, minimum


# --- with importance: the searches of the K types ----------------------------------------------------------------


@kernel
def row_mean_squares(rows, out):
    """Mean of the squares of each row, summed in order; rows f32 [n_rows, n_cols], out f32 [n_rows]."""
    for row in range(rows.shape[0]):
        total = np.float32(0)
        for i in range(rows.shape[1]):
            total += rows[row, i] * rows[row, i]
        out[row] = total / np.float32(rows.shape[1])


@helper
def load_with_importance(blocks, importance, sigma2, first, x, weight):
    """A tile of values, and their weights importance * sqrt(mean square of the row + x^2)."""
    load_tile(blocks, first, x)
    load_tile(importance, first, weight)
    row = np.empty((1, LANES), np.float32)
    for lane in range(LANES):
        block = (first + lane) % blocks.shape[0]
        row[0, lane] = sigma2[block // importance.shape[0]]
    weigh_by_importance(x, load(row, 0), weight)


@kernel
def symmetric_weighted(blocks, importance, sigma2, n, codes, d):
    """Like `symmetric_range`, by the search of `symmetric_search` (ggml-quants.c `quantize_row_q4_0_impl`).

    importance f32 [n_cols / 32, 32], sigma2 f32 [n_rows]: the mean square of each row; d f32 [n_tiles, LANES].
    """
    x = np.empty((32, LANES), np.float32)
    weight = np.empty((32, LANES), np.float32)
    tile = np.empty((32, LANES), np.uint8)
    for k in range(d.shape[0]):
        load_with_importance(blocks, importance, sigma2, k * LANES, x, weight)
        store(d, k, symmetric_search(x, weight, 0, 32, n, tile))
        store_tile(tile, k * LANES, codes)


@kernel
def affine_weighted(blocks, importance, sigma2, max_code, grid, codes, d, m):
    """Like `affine_range`, by the search of `affine_search` (ggml-quants.c `quantize_row_q4_1_impl`).

    importance f32 [n_cols / 32, 32], sigma2 f32 [n_rows]: the mean square of each row; d, m f32 [n_tiles, LANES].
    """
    x = np.empty((32, LANES), np.float32)
    weight = np.empty((32, LANES), np.float32)
    rounded = np.empty((32, LANES), np.float32)
    tile = np.empty((32, LANES), np.uint8)
    for k in range(d.shape[0]):
        load_with_importance(blocks, importance, sigma2, k * LANES, x, weight)
        scale, minimum, _ = affine_search(x, weight, 0, max_code, grid, False, rounded, tile)
        store(d, k, scale)
        store(m, k, -minimum)
        store_tile(tile, k * LANES, codes)


# --- bytes -----------------------------------------------------------------------------------------------------------


@helper
def store_nibbles(codes, out, at):
    """The low four bits of 32 codes, as 16 bytes."""
    store(out, at, (load_16(codes, 0) & 15) | (load_16(codes, 16) & 15) << 4)


@helper
def store_fifth_bits(codes, out, at):
    """Bit 4 of 32 codes, as four bytes."""
    bits = mask_bits(load_16(codes, 0) > 15) | mask_bits(load_16(codes, 16) > 15) << 16
    for k in range(4):
        out[at + k] = np.uint8((bits >> (8 * k)) & 0xFF)


@kernel
def q4_0_pack(codes, d, out):
    """codes u8 [n_blocks, 32], d f32 [n_blocks] -> out u8 [n_blocks, 18]: f16 d, qs[16]."""
    for b in range(codes.shape[0]):
        store_f16(within_f16(d[b]), out[b], 0)
        store_nibbles(codes[b], out[b], 2)


@kernel
def q4_1_pack(codes, d, m, out):
    """codes u8 [n_blocks, 32], d and m f32 [n_blocks] -> out u8 [n_blocks, 20]: f16 d, f16 m, qs[16]."""
    for b in range(codes.shape[0]):
        store_f16(within_f16(d[b]), out[b], 0)
        store_f16(within_f16(m[b]), out[b], 2)
        store_nibbles(codes[b], out[b], 4)


@kernel
def q5_0_pack(codes, d, out):
    """codes u8 [n_blocks, 32], d f32 [n_blocks] -> out u8 [n_blocks, 22]: f16 d, qh[4], qs[16]."""
    for b in range(codes.shape[0]):
        store_f16(within_f16(d[b]), out[b], 0)
        store_fifth_bits(codes[b], out[b], 2)
        store_nibbles(codes[b], out[b], 6)


@kernel
def q5_1_pack(codes, d, m, out):
    """codes u8 [n_blocks, 32], d and m f32 [n_blocks] -> out u8 [n_blocks, 24]: f16 d, f16 m, qh[4], qs[16]."""
    for b in range(codes.shape[0]):
        store_f16(within_f16(d[b]), out[b], 0)
        store_f16(within_f16(m[b]), out[b], 2)
        store_fifth_bits(codes[b], out[b], 4)
        store_nibbles(codes[b], out[b], 8)


@helper
def round_half_away_lanes(x):
    """Floats to ints, ties away from zero (C's `roundf`)."""
    return int_lanes(x + select(x < 0, -ALMOST_HALF, ALMOST_HALF))


@kernel
def q8_0_quantize(blocks, out):
    """blocks f32 [n_blocks, 32] -> out u8 [n_blocks, 34]: f16 d, i8 qs[32]; the largest magnitude becomes 127."""
    for b in range(blocks.shape[0]):
        low, high = load_16(blocks[b], 0), load_16(blocks[b], 16)
        smallest, largest = range_of(low, high)
        d = max(abs(smallest), abs(largest)) / np.float32(127)
        inverse = finite_inverse(d)
        store_f16(within_f16(d), out[b], 0)
        store(out[b], 2, round_half_away_lanes(low * inverse))
        store(out[b], 18, round_half_away_lanes(high * inverse))


@helper
def fifth_bits(block, at):
    """The four little-endian bytes of `qh` at index `at`, as one word."""
    low = np.uint32(block[at]) | (np.uint32(block[at + 1]) << 8)
    return np.uint32(low | (np.uint32(block[at + 2]) << 16) | (np.uint32(block[at + 3]) << 24))


@kernel
def q4_0_unpack(data, out):
    """data u8 [n_blocks, 18]: f16 d, qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d = load_f16(data[b], 0)
        q = load_16(data[b], 2)
        store(out[b], 0, float_lanes((q & 15) - 8) * d)
        store(out[b], 16, float_lanes((q >> 4) - 8) * d)


@kernel
def q4_1_unpack(data, out):
    """data u8 [n_blocks, 20]: f16 d, f16 m, qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d, m = load_f16(data[b], 0), load_f16(data[b], 2)
        q = load_16(data[b], 4)
        store(out[b], 0, float_lanes(q & 15) * d + m)
        store(out[b], 16, float_lanes(q >> 4) * d + m)


@kernel
def q5_0_unpack(data, out):
    """data u8 [n_blocks, 22]: f16 d, qh[4], qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d, qh = load_f16(data[b], 0), fifth_bits(data[b], 2)
        for j in range(16):
            q = np.int32(data[b, 6 + j])
            out[b, j] = np.float32(((q & 15) | ((qh >> j) & 1) << 4) - 16) * d
            out[b, j + 16] = np.float32(((q >> 4) | ((qh >> (j + 16)) & 1) << 4) - 16) * d


@kernel
def q5_1_unpack(data, out):
    """data u8 [n_blocks, 24]: f16 d, f16 m, qh[4], qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d, m, qh = load_f16(data[b], 0), load_f16(data[b], 2), fifth_bits(data[b], 4)
        for j in range(16):
            q = np.int32(data[b, 8 + j])
            out[b, j] = np.float32((q & 15) | ((qh >> j) & 1) << 4) * d + m
            out[b, j + 16] = np.float32((q >> 4) | ((qh >> (j + 16)) & 1) << 4) * d + m


@kernel
def q8_0_unpack(data, out):
    """data u8 [n_blocks, 34]: f16 d, i8 qs[32] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d = load_f16(data[b], 0)
        for j in range(0, 32, 16):
            q = (load_16(data[b], 2 + j) << 24) >> 24  # bytes with a sign
            store(out[b], j, float_lanes(q) * d)

"""Scale search and packing of the 4-bit non-linear types: 16 fixed levels, finer near zero.

Follows ggml-quants.c `quantize_row_iq4_nl_impl` operation by operation. LANES blocks stand side by side, x[i, lane], so
that the inner loops run over lanes and become vector code; each lane adds in the order of the scalar code.
"""

import numpy as np

from .blocks import finite_or, mean_square
from .jit import helper, kernel
from .lanes import load_16, lookup, store
from .rounding import load_f16, nearest_int, store_f16, within_f16

LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# A value belongs to the upper level from the middle on. The middles are exact, so comparing with them picks the
# level that comparing the two rounded distances would.
MIDDLES = (LEVELS[:-1] + LEVELS[1:]) / np.float32(2)
STEPS = LEVELS[1:] - LEVELS[:-1]
TOP_LEVEL = LEVELS[15]
BOTTOM_LEVEL = LEVELS[0]

LANES = 16
TRIES = 7  # inverse scales tried on either side of the one that puts the largest value on the lowest level
GROUP_MAX_EPS = np.float32(1e-15)


@helper
def nearest_level(x):
    """f32 -> f32, the nearest of LEVELS; NaN goes to the highest, as in the reference."""
    level = TOP_LEVEL
    for k in range(15):
        level -= STEPS[k] if x < MIDDLES[k] else np.float32(0)
    return level


@helper
def nearest_code(x):
    """f32 -> i32, the index of the nearest of LEVELS."""
    code = np.int32(15)
    for k in range(15):
        code -= np.int32(1) if x < MIDDLES[k] else np.int32(0)
    return code


@helper
def weighted_sums(x, weight, inverse, sums):
    """For 32 values per lane quantized with `inverse`: the sums of w q x and of w q q, in order of the values."""
    sums[:] = 0
    for j in range(32):
        for lane in range(LANES):
            level = nearest_level(inverse[lane] * x[j, lane])
            weighted = weight[j, lane] * level
            sums[0, lane] += weighted * x[j, lane]
            sums[1, lane] += weighted * level


@helper
def best_scales(x, weight, largest, inverse, sums, best, scale):
    """The scale of 32 values per lane that loses least among all tries; zero where no value reaches GROUP_MAX_EPS.

    Where sums overflow (the reference then stores NaN) it is the one that puts the largest value on the lowest level.
    """
    for lane in range(LANES):
        inverse[lane] = np.float32(1) / (-largest[lane] / BOTTOM_LEVEL)
    weighted_sums(x, weight, inverse, sums)
    for lane in range(LANES):
        scale[lane] = sums[0, lane] / sums[1, lane] if sums[1, lane] > 0 else np.float32(0)
        best[lane] = scale[lane] * sums[0, lane]
    for step in range(-TRIES, TRIES + 1):
        for lane in range(LANES):
            inverse[lane] = (np.float32(step) + BOTTOM_LEVEL) / largest[lane]
        weighted_sums(x, weight, inverse, sums)
        for lane in range(LANES):
            qx, qq = sums[0, lane], sums[1, lane]
            better = qq > 0 and qx * qx > best[lane] * qq
            scale[lane] = qx / qq if better else scale[lane]
            best[lane] = qx / qq * qx if better else best[lane]
    for lane in range(LANES):
        scale[lane] = finite_or(scale[lane], largest[lane] / BOTTOM_LEVEL)
        scale[lane] = np.float32(0) if abs(largest[lane]) < GROUP_MAX_EPS else scale[lane]


@kernel
def iq4_scales(blocks, importance, scales):
    """The best scale of every 32 values.

    blocks f32 [n_blocks, n_values], n_values 32 or 256; importance f32 [n_cols] or empty;
    n_cols a multiple of n_values; scales f32 [n_blocks, n_values / 32], written.
    """
    n_blocks, n_values = blocks.shape
    blocks_per_row = max(1, importance.size // n_values)
    x = np.zeros((32, LANES), np.float32)
    weight = np.zeros((32, LANES), np.float32)
    largest = np.zeros(LANES, np.float32)
    sigma2 = np.zeros(LANES, np.float32)
    inverse = np.empty(LANES, np.float32)
    sums = np.empty((2, LANES), np.float32)
    best = np.empty(LANES, np.float32)
    scale = np.empty(LANES, np.float32)
    for first in range(0, n_blocks, LANES):
        n_lanes = min(LANES, n_blocks - first)
        for lane in range(n_lanes):
            sigma2[lane] = mean_square(blocks[first + lane]) * np.float32(2)
        for sub in range(n_values // 32):
            for lane in range(n_lanes):
                start = (first + lane) % blocks_per_row * n_values + 32 * sub
                values = blocks[first + lane, 32 * sub : 32 * sub + 32]
                load_lane(values, importance[start : start + 32], sigma2[lane], x, weight, lane)
                largest[lane] = first_largest(values)
            best_scales(x, weight, largest, inverse, sums, best, scale)
            for lane in range(n_lanes):
                scales[first + lane, sub] = scale[lane]


@helper
def first_largest(values):
    """f32 [n] -> f32, the first of the values with the largest magnitude."""
    largest = np.float32(0)
    for j in range(values.size):
        largest = values[j] if abs(values[j]) > abs(largest) else largest
    return largest


@helper
def load_lane(values, importance, sigma2, x, weight, lane):
    """Copy 32 values and their weights into one lane: importance * sqrt(sigma2 + x^2), or x^2 without importance."""
    for j in range(32):
        x[j, lane] = values[j]
        square = values[j] * values[j]
        weight[j, lane] = importance[j] * np.sqrt(sigma2 + square) if importance.size else square


@helper
def pack_codes(values, inverse, qs):
    """32 values -> 16 bytes: low nibbles are the first 16 codes, high nibbles the second."""
    for j in range(16):
        low = nearest_code(inverse * values[j])
        high = nearest_code(inverse * values[j + 16])
        qs[j] = np.uint8(low | (high << 4))


@kernel
def iq4_nl_pack(blocks, scales, out):
    """blocks f32 [n_blocks, 32], scales f32 [n_blocks, 1] -> out u8 [n_blocks, 18]: f16 d, qs[16]."""
    for block in range(blocks.shape[0]):
        scale = within_f16(scales[block, 0])
        store_f16(scale, out[block], 0)
        inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
        pack_codes(blocks[block], inverse, out[block, 2:])


@kernel
def iq4_xs_pack(blocks, scales, out):
    """blocks f32 [n_blocks, 256], scales f32 [n_blocks, 8] -> out u8 [n_blocks, 136].

    Layout: f16 d, u16 scales_h (2 high bits of each 6-bit scale), scales_l[4] (4 low bits), qs[128].
    """
    for block in range(blocks.shape[0]):
        data = out[block]
        d = within_f16(-first_largest(scales[block]) / np.float32(32))
        store_f16(d, data, 0)
        inverse_d = np.float32(1) / d if d != 0 else np.float32(0)
        data[2:8] = 0
        for sub in range(8):
            ratio = within_f16(inverse_d * scales[block, sub])  # beyond 32 only if d was held back
            l = min(max(nearest_int(ratio), np.int32(-32)), np.int32(31))
            scale = d * np.float32(l)
            inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
            pack_codes(blocks[block, 32 * sub : 32 * sub + 32], inverse, data[8 + 16 * sub : 24 + 16 * sub])
            l += 32
            data[2 + sub // 4] |= np.uint8((l >> 4) << (2 * (sub % 4)))
            data[4 + sub // 2] |= np.uint8((l & 15) << (4 * (sub % 2)))


@helper
def unpack_codes(data, at, scale, out, start):
    """16 bytes of data u8 [...] from `at` on -> 32 values of out f32 [...] from `start` on."""
    codes = load_16(data, at)
    store(out, start, lookup(codes & 15, LEVELS) * scale)
    store(out, start + 16, lookup(codes >> 4, LEVELS) * scale)


@kernel
def iq4_nl_unpack(data, out):
    """data u8 [n_blocks, 18] -> out f32 [n_blocks, 32]."""
    for block in range(data.shape[0]):
        unpack_codes(data[block], 2, load_f16(data[block], 0), out[block], 0)


@kernel
def iq4_xs_unpack(data, out):
    """data u8 [n_blocks, 136] -> out f32 [n_blocks, 256]."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for sub in range(8):
            low = (data[block, 4 + sub // 2] >> (4 * (sub % 2))) & 15
            high = (data[block, 2 + sub // 4] >> (2 * (sub % 4))) & 3
            scale = d * np.float32(np.int32(low | (high << 4)) - 32)
            unpack_codes(data[block], 8 + 16 * sub, scale, out[block], 32 * sub)

"""From the values of super-blocks to the integers that their bytes will hold, LANES super-blocks at a time.

Input: blocks f32 [n_blocks, 256], importance f32 [n_cols / 256, 256] or [0, 256] for none. Output, tile by tile:
codes u8 [n_tiles, 256, LANES]; the integers that stand for the sub-blocks' scales, f32 [n_tiles, n_sub, LANES]; float16
bits of the super-blocks' scales, i32 [n_tiles, LANES].
"""

from typing import NamedTuple

import numpy as np

from .jit import helper, kernel
from .lanes import LANES, broadcast, float_lanes, int_lanes, load, magnitude, select, smaller, square_root, store
from .scales import (
    GROUP_MAX_EPS,
    affine_codes,
    affine_search,
    descent_search,
    largest_to_max_code,
    largest_to_minus_n,
    positive_search,
    symmetric_codes,
    symmetric_search,
)
from .tiles import load_tile, round_to_f16


class Affine(NamedTuple):
    """What tells Q2_K, Q4_K and Q5_K apart (ggml-quants.c `quantize_row_q4_K_ref`, `quantize_row_q4_K_impl`...)."""

    size: int  # values per sub-block
    max_code: int
    max_scale: int  # the largest integer for a sub-block's scale or minimum
    grid: tuple[float, float, int]  # of inverse scales, see `affine_search`
    absolute: bool = False  # weights |x| and absolute errors; else, without importance, rms + |x| and squares
    sigma2_factor: float = 2.0  # with importance: sigma2 of `weigh_by_importance` is so many mean squares
    saturate: bool = False  # with importance: integers that wrapped are cut to max_scale instead of to their bits


@helper
def mean_square(x, first, size):
    """Mean of the squares of `size` values, a power of two, summed in order."""
    total = broadcast(0)
    for i in range(first, first + size):
        total += load(x, i) * load(x, i)
    return total / size


@helper
def sum_of(x, first, size):
    """Sum of `size` values, in order."""
    total = broadcast(0)
    for i in range(first, first + size):
        total += load(x, i)
    return total


@helper
def weigh_by_importance(x, sigma2, weight):
    """Importance in `weight` becomes importance * sqrt(sigma2 + x^2)."""
    for i in range(x.shape[0]):
        v = load(x, i)
        store(weight, i, load(weight, i) * square_root(sigma2 + v * v))


@helper
def weigh_by_magnitude(x, size, absolute, weight):
    """Without importance: |x|, and unless `absolute` the root mean square of the sub-block added."""
    for first in range(0, x.shape[0], size):
        rms = square_root(mean_square(x, first, size))
        for i in range(first, first + size):
            v = magnitude(load(x, i))
            store(weight, i, v if absolute else rms + v)


@helper
def read_back(scales, mins, how):
    """Integers of scales and minimums become what their bytes will hold.

    That is what they are, unless a negative scale wrapped (see `positive_search`): then its upper bits get lost, or
    run into a neighbour's.
    """
    if how.saturate:
        for j in range(scales.shape[0]):
            store(scales, j, smaller(load(scales, j), how.max_scale))
    elif how.max_scale == 15:
        for j in range(scales.shape[0]):
            byte = int_lanes(load(scales, j)) | int_lanes(load(mins, j)) << 4
            store(scales, j, float_lanes(byte & 15))
            store(mins, j, float_lanes((byte >> 4) & 15))
    else:
        for j in range(4):
            spilled = int_lanes(load(scales, j)) >> 6
            scale = int_lanes(load(scales, j + 4)) | spilled << 4
            store(scales, j, float_lanes(int_lanes(load(scales, j)) & 63))
            store(scales, j + 4, float_lanes(scale & 63))


@kernel
def affine_quantize(blocks, importance, how, codes, scales, mins, d, dmin):
    """Q2_K, Q4_K, Q5_K: value = d * scale * code - dmin * minimum; `how` is an Affine."""
    weighted = importance.shape[0] > 0
    x = np.empty((256, LANES), np.float32)
    weight = np.empty((256, LANES), np.float32)
    rounded = np.empty((how.size, LANES), np.float32)
    found = np.empty((3, scales.shape[1], LANES), np.float32)  # scale, minimum and sum of weights of sub-blocks
    for n in range(codes.shape[0]):
        load_tile(blocks, n * LANES, x)
        if weighted:
            load_tile(importance, n * LANES, weight)
            weigh_by_importance(x, mean_square(x, 0, 256) * how.sigma2_factor, weight)
        else:
            weigh_by_magnitude(x, how.size, how.absolute, weight)
        for sub in range(scales.shape[1]):
            scale, minimum, sum_w = affine_search(
                x, weight, how.size * sub, how.max_code, how.grid, how.absolute, rounded, codes[n]
            )
            store(found[0], sub, scale)
            store(found[1], sub, minimum)
            store(found[2], sub, sum_w)
        if weighted:
            scale = positive_search(found[0], found[2], how.max_scale, scales[n])
            minimum = positive_search(found[1], found[2], how.max_scale, mins[n])
            read_back(scales[n], mins[n], how)
        else:
            scale = largest_to_max_code(found[0], how.max_scale, scales[n])
            minimum = largest_to_max_code(found[1], how.max_scale, mins[n])
        scale = round_to_f16(scale, d, n)
        minimum = round_to_f16(minimum, dmin, n)
        for sub in range(scales.shape[1]):
            sub_scale, sub_minimum = scale * load(scales[n], sub), minimum * load(mins[n], sub)
            affine_codes(x, how.size * sub, how.size, how.max_code, sub_scale, sub_minimum, codes[n])


@kernel
def q3_k_quantize(blocks, importance, codes, scales, d):
    """Q3_K: value = d * scale * (code - 4), sub-blocks of 16 (`quantize_row_q3_K_ref`, `quantize_row_q3_K_impl`)."""
    weighted = importance.shape[0] > 0
    x = np.empty((256, LANES), np.float32)
    weight = np.empty((256, LANES), np.float32)
    rounded = np.empty((16, LANES), np.float32)
    found = np.empty((2, 16, LANES), np.float32)  # scale and sum of weights of sub-blocks
    scale_codes = np.empty((16, LANES), np.uint8)
    for n in range(codes.shape[0]):
        load_tile(blocks, n * LANES, x)
        if weighted:
            load_tile(importance, n * LANES, weight)
            weigh_by_importance(x, mean_square(x, 0, 256) * 2, weight)
            for sub in range(16):
                store(found[0], sub, symmetric_search(x, weight, 16 * sub, 16, 4, codes[n]))
                store(found[1], sub, sum_of(weight, 16 * sub, 16))
            scale = symmetric_search(found[0], found[1], 0, 16, 32, scale_codes)
            for sub in range(16):
                store(scales[n], sub, float_lanes(load(scale_codes, sub)) - 32)
        else:
            for sub in range(16):
                store(found[0], sub, descent_search(x, 16 * sub, 4, rounded, codes[n]))
            largest, scale = largest_to_minus_n(found[0], 32, scales[n])
            scale = select(largest == 0, 0, scale)
        scale = round_to_f16(scale, d, n)
        for sub in range(16):
            symmetric_codes(x, 16 * sub, 16, 4, scale * load(scales[n], sub), codes[n])


@kernel
def q6_k_quantize(blocks, importance, codes, scales, d):
    """Q6_K: value = d * scale * (code - 32), sub-blocks of 16 (`quantize_row_q6_K_impl`)."""
    weighted = importance.shape[0] > 0
    x = np.empty((256, LANES), np.float32)
    weight = np.empty((256, LANES), np.float32)
    sub_scales = np.empty((16, LANES), np.float32)
    for n in range(codes.shape[0]):
        load_tile(blocks, n * LANES, x)
        if weighted:
            load_tile(importance, n * LANES, weight)
        else:
            for i in range(256):
                store(weight, i, load(x, i) * load(x, i))
        for sub in range(16):
            store(sub_scales, sub, symmetric_search(x, weight, 16 * sub, 16, 32, codes[n]))
        largest, scale = largest_to_minus_n(sub_scales, 128, scales[n])
        tiny = magnitude(largest) < GROUP_MAX_EPS  # then all bytes are zero
        scale = round_to_f16(select(tiny, 0, scale), d, n)
        for sub in range(16):
            store(scales[n], sub, select(tiny, 0, load(scales[n], sub)))
            symmetric_codes(x, 16 * sub, 16, 32, scale * load(scales[n], sub), codes[n])
        for i in range(256):
            store(codes[n], i, select(tiny, 0, load(codes[n], i)))

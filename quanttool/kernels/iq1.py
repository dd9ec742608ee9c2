"""Search of IQ1_S and IQ1_M: values -1, 0 or 1 shifted by an eighth, up or down, times a scale.

Follows ggml-quants.c `quantize_row_iq1_s_impl` and `quantize_row_iq1_m_impl` operation by operation. The values of a
sub-block are sorted; every split into low, middle and high ones is scored from prefix sums, with every shift. LANES
sub-blocks stand side by side, values[i, lane]. Then each group of 8 takes a point of the codebook.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import finite_or, largest_magnitude, mean_square
from .codebook import CHUNK
from .jit import helper, kernel
from .rounding import f16_bits, float_bits, float_of, nearest_int, within_f16

LANES = 16
DELTA = np.float32(0.125)
ONE = np.float32(1)
ZERO = np.float32(0)
NOTHING = np.float32(-3.4028235e38)  # the score to beat at first
SQUARES_OVERFLOW = np.float32(1e16)  # mean squares from here on would make sums overflow; no float16 scale is so large


LARGEST_SCALE = np.float32(1e30)  # far beyond what a float16 holds


class Sorted(NamedTuple):
    """Sub-blocks side by side, sorted by value."""

    values: NDArray[np.float32]  # [n, LANES]
    weights: NDArray[np.float32]  # [n, LANES]
    places: NDArray[np.int32]  # [n, LANES], where in the sub-block the value stands
    largest: NDArray[np.float32]  # [LANES], the largest magnitude


class Split(NamedTuple):
    """The best split so far: sorted values below `low` are low, from `high` on high."""

    score: NDArray[np.float32]  # [LANES]
    scale: NDArray[np.float32]  # [LANES]
    low: NDArray[np.int32]  # [LANES], -1 while there is none
    high: NDArray[np.int32]  # [LANES]
    shifts: NDArray[np.int32]  # [LANES], bit k: the shift of half k is downwards


@helper
def sort_lanes(tile):
    """Sort every lane by value; equal values keep their order."""
    n = tile.values.shape[0]
    for sweep in range(n):
        for j in range(sweep % 2, n - 1, 2):
            for lane in range(LANES):
                swap = tile.values[j, lane] > tile.values[j + 1, lane]
                exchange(tile.values, j, lane, swap)
                exchange(tile.weights, j, lane, swap)
                exchange(tile.places, j, lane, swap)


@helper
def exchange(column, j, lane, swap):
    """Swap the entries j and j + 1, or not, without a branch."""
    a, b = column[j, lane], column[j + 1, lane]
    column[j, lane] = b if swap else a
    column[j + 1, lane] = a if swap else b


@helper
def keep_better(lane, qx, qq, low, high, shifts, split):
    """Take this split in this lane if it explains more than the best so far."""
    better = qq > 0 and qx * qx > split.score[lane] * qq
    scale = qx / qq
    split.scale[lane] = scale if better else split.scale[lane]
    split.score[lane] = scale * qx if better else split.score[lane]
    split.low[lane] = low if better else split.low[lane]
    split.high[lane] = high if better else split.high[lane]
    split.shifts[lane] = shifts if better else split.shifts[lane]


@helper
def split_with_one_shift(tile, sums, split):
    """IQ1_S: all values have one shift. sums f32 [2, n + 1, LANES] is scratch."""
    n = tile.values.shape[0]
    sums[:, 0] = 0
    for j in range(n):
        for lane in range(LANES):
            sums[0, j + 1, lane] = sums[0, j, lane] + tile.weights[j, lane] * tile.values[j, lane]
            sums[1, j + 1, lane] = sums[1, j, lane] + tile.weights[j, lane]
    for low in range(n + 1):
        for high in range(low, n + 1):
            for down in range(2):
                delta = -DELTA if down else DELTA
                q0, q1, q2 = delta - ONE, delta, delta + ONE
                for lane in range(LANES):
                    x0, x1 = sums[0, low, lane], sums[0, high, lane] - sums[0, low, lane]
                    w0, w1 = sums[1, low, lane], sums[1, high, lane] - sums[1, low, lane]
                    x2, w2 = sums[0, n, lane] - sums[0, high, lane], sums[1, n, lane] - sums[1, high, lane]
                    qx = x0 * q0 + x1 * q1 + x2 * q2
                    qq = w0 * q0 * q0 + w1 * q1 * q1 + w2 * q2 * q2
                    keep_better(lane, qx, qq, low, high, 3 * down, split)


@helper
def split_with_two_shifts(tile, sums, split):
    """IQ1_M: the first and the second half of the sub-block have a shift each. sums f32 [4, n + 1, LANES] is scratch.

    With sums S up to a split, total T and levels q0, q1 = q0 + 1, q2 = q0 + 2 the three parts add up to
    T q2 - S[low] - S[high]; the reference does so and for the squares likewise.
    """
    n = tile.values.shape[0]
    sums[:, 0] = 0
    for j in range(n):
        for lane in range(LANES):
            w, x = tile.weights[j, lane], tile.values[j, lane]
            first = tile.places[j, lane] < n // 2
            sums[0, j + 1, lane] = sums[0, j, lane] + w * x if first else sums[0, j, lane]
            sums[1, j + 1, lane] = sums[1, j, lane] if first else sums[1, j, lane] + w * x
            sums[2, j + 1, lane] = sums[2, j, lane] + w if first else sums[2, j, lane]
            sums[3, j + 1, lane] = sums[3, j, lane] if first else sums[3, j, lane] + w
    for low in range(n + 1):
        for high in range(low, n + 1):
            for shifts in (0, 2, 1, 3):
                for lane in range(LANES):
                    qx0, qq0 = half_sums(sums[0], sums[2], low, high, shifts & 1, lane)
                    qx1, qq1 = half_sums(sums[1], sums[3], low, high, shifts >> 1, lane)
                    keep_better(lane, qx0 + qx1, qq0 + qq1, low, high, shifts, split)


@helper
def half_sums(sum_x, sum_w, low, high, down, lane):
    """The sums of w q x and w q q of one half, from its prefix sums f32 [n + 1, LANES]."""
    n = sum_x.shape[0] - 1
    delta = -DELTA if down else DELTA
    q0, q1, q2 = delta - ONE, delta, delta + ONE
    qx = sum_x[n, lane] * q2 - (sum_x[low, lane] + sum_x[high, lane])
    qq = sum_w[n, lane] * q2 * q2 + sum_w[low, lane] * (q0 * q0 - q1 * q1) + sum_w[high, lane] * (q1 * q1 - q2 * q2)
    return qx, qq


@helper
def closest_shifted(key, x, weight, scale, delta, book):
    """Number of the neighbour of `key` with the smallest sum of weight (scale (point + delta) - x)^2."""
    start = book.first_chunk[key]
    best = np.int64(np.iinfo(np.int64).max)
    for chunk in range(start, book.first_chunk[key + 1]):
        for lane in range(CHUNK):
            error = ZERO
            for i in range(8):
                q = np.float32(0.5) * np.float32(book.chunk_values[chunk, i, lane]) - np.float32(1.5) + delta
                off = scale * q - x[i]
                error += weight[i] * off * off
            candidate = (np.int64(float_bits(error) & 0x7FFFFFFF) << 32) | (CHUNK * np.int64(chunk - start) + lane)
            best = candidate if candidate < best else best
    place = best & 0xFFFFFFFF
    return book.chunk_points[start + place // CHUNK, place % CHUNK]


@helper
def choose_points(x, weight, codes, deltas, scale, book, points):
    """The point of every group of 8 codes, or its closest neighbour; the scale, fitted again if there was one."""
    off_grid = False
    for group in range(points.size):
        part = slice(8 * group, 8 * group + 8)
        key, step = np.int32(0), np.int32(1)
        for i in range(8):
            key += np.int32(codes[8 * group + i]) * step
            step = np.int32(3 * step)
        point = book.point_of_key[key]
        if point < 0:
            off_grid = True
            point = closest_shifted(key, x[part], weight[part], scale, deltas[group], book)
        points[group] = point
    if off_grid:
        qx = qq = ZERO
        for i in range(x.size):
            q = np.float32(book.levels[points[i // 8], i % 8]) - ONE + deltas[i // 8]
            qx += weight[i] * q * x[i]
            qq += weight[i] * q * q
        if qx > 0 and qq > 0:
            scale = qx / qq
    return scale


@helper
def load_lane(values, importance, sigma2, shrink, tile, lane):
    """One sub-block into its lane, with weights importance * sqrt(sigma2 + x^2), or x^2 without importance."""
    largest = ZERO
    for i in range(values.size):
        x = values[i] * shrink
        tile.values[i, lane] = x
        tile.weights[i, lane] = importance[i] * np.sqrt(sigma2 + x * x) if importance.size else x * x
        tile.places[i, lane] = i
        largest = max(largest, abs(x))
    tile.largest[lane] = largest


@helper
def store_lane(split, tile, lane, book, x, weight, codes, deltas, points):
    """Codes of one sub-block from its split, then its points; gives the scale. x, weight, codes are scratch [n]."""
    n, n_groups = x.size, points.size
    scale, shifts = split.scale[lane], split.shifts[lane]
    flip = scale < 0
    for j in range(n):
        i = tile.places[j, lane]
        code = np.int32(j >= split.low[lane]) + np.int32(j >= split.high[lane])
        codes[i] = np.uint8(2 - code if flip else code)
        x[i] = tile.values[j, lane]
        weight[i] = tile.weights[j, lane]
    for group in range(n_groups):
        down = ((shifts >> (2 * group // n_groups)) & 1) != flip
        deltas[group] = -DELTA if down else DELTA
    scale = finite_or(abs(scale), tile.largest[lane])
    return finite_or(choose_points(x, weight, codes, deltas, scale, book, points), tile.largest[lane])


@helper
def shrunk_square(values):
    """Mean square of a block, and what to multiply values with first so that no sum overflows: 1, but for giants."""
    square = mean_square(values)
    if square < SQUARES_OVERFLOW:
        return square, ONE
    exponent = float_bits(largest_magnitude(values)) >> 23
    shrink = float_of(max(np.int32(254 - exponent), 1) << 23)  # brings the largest to between 1 and 4
    square = ZERO
    for i in range(values.size):
        square += (values[i] * shrink) * (values[i] * shrink)
    return square / np.float32(values.size), shrink


@helper
def make_tile(n):
    return Sorted(
        np.zeros((n, LANES), np.float32),
        np.zeros((n, LANES), np.float32),
        np.zeros((n, LANES), np.int32),
        np.zeros(LANES, np.float32),
    )


@helper
def make_split():
    return Split(
        np.empty(LANES, np.float32),
        np.empty(LANES, np.float32),
        np.empty(LANES, np.int32),
        np.empty(LANES, np.int32),
        np.empty(LANES, np.int32),
    )


@helper
def find_splits(tile, sums, split):
    """Sort the lanes and find the best split of each; `low` stays -1 where all weights are zero."""
    sort_lanes(tile)
    split.score[:] = NOTHING
    split.low[:] = -1
    split.scale[:] = 0
    if tile.values.shape[0] == 32:
        split_with_one_shift(tile, sums, split)
    else:
        split_with_two_shifts(tile, sums, split)


@kernel
def search_iq1(blocks, importance, smallest, book, scales, points, deltas):
    """Scales, points and shifts of blocks of 256 values; sub-blocks of 32 have one shift, those of 16 have two.

    blocks f32 [n_blocks, 256]; importance f32 [n_cols] or empty; written: scales f32 [n_blocks, 256 / sub_size],
    points i32 and deltas f32 [n_blocks, 32]. Sub-blocks with no value of at least `smallest` get scale and points 0.
    """
    n_subs = scales.shape[1]
    size, n_groups = 256 // n_subs, 32 // n_subs
    blocks_per_row = max(1, importance.size // 256)
    tile, split = make_tile(size), make_split()
    sums = np.empty((4, size + 1, LANES), np.float32)
    x, weight, codes = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.uint8)
    squares, shrinks = np.empty(blocks.shape[0], np.float32), np.empty(blocks.shape[0], np.float32)
    for block in range(blocks.shape[0]):
        squares[block], shrinks[block] = shrunk_square(blocks[block])
    scales[:] = 0
    points[:] = 0
    deltas[:] = DELTA
    for first in range(0, scales.size, LANES):
        n_lanes = min(LANES, scales.size - first)
        for lane in range(n_lanes):
            block, sub = (first + lane) // n_subs, (first + lane) % n_subs
            start = block % blocks_per_row * 256 + size * sub
            values = blocks[block, size * sub : size * (sub + 1)]
            sigma2 = np.float32(2) * squares[block]
            load_lane(values, importance[start : start + size], sigma2, shrinks[block], tile, lane)
        find_splits(tile, sums, split)
        for lane in range(n_lanes):
            block, sub = (first + lane) // n_subs, (first + lane) % n_subs
            if split.low[lane] >= 0 and tile.largest[lane] >= smallest:
                part = slice(n_groups * sub, n_groups * (sub + 1))
                scale = store_lane(split, tile, lane, book, x, weight, codes, deltas[block, part], points[block, part])
                scales[block, sub] = min(scale / shrinks[block], LARGEST_SCALE)


@kernel
def fit_iq1_m(blocks, importance, scales, points, deltas, book, d, codes):
    """d and scale codes of IQ1_M: codes from the largest scale, then one fit of d over the block.

    Written: d u16 [n_blocks, 1], float16 bits, of the fit times 1.1125; codes u8 [n_blocks, 16].
    """
    blocks_per_row = max(1, importance.size // 256)
    for block in range(blocks.shape[0]):
        x = blocks[block]
        unit = scales[block].max() / np.float32(15)
        if unit == 0:
            d[block] = 0
            codes[block] = 0
            continue
        inverse = ONE / unit
        square, shrink = shrunk_square(x)
        sigma2 = np.float32(2) * square
        qx = qq = ZERO
        for i in range(256):
            sub, group = i // 16, i // 8
            code = nearest_int(np.float32(0.5) * (inverse * scales[block, sub] - ONE))
            code = min(max(code, 0), 7)
            codes[block, sub] = np.uint8(code)
            v = x[i] * shrink
            w = v * v
            if importance.size:
                w = importance[block % blocks_per_row * 256 + i] * np.sqrt(sigma2 + w)
            level = np.float32(book.levels[points[block, group], i % 8]) - ONE + deltas[block, group]
            q = level * np.float32(2 * code + 1)
            qx += w * q * v
            qq += w * q * q
        unit = finite_or(qx / qq / shrink, unit) if qq > 0 else unit
        d[block, 0] = np.uint16(f16_bits(within_f16(unit * np.float32(1.1125))))

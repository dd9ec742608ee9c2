"""Search of IQ1_S and IQ1_M: values -1, 0 or 1 shifted by an eighth, up or down, times a scale.

Follows ggml-quants.c `quantize_row_iq1_s_impl` and `quantize_row_iq1_m_impl` operation by operation. The values of a
sub-block are sorted; every split into low, middle and high ones is scored from prefix sums, with every shift. LANES
sub-blocks stand side by side, values[i, lane]. Then each group of 8 takes a point of the codebook.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import LARGEST_SCALE, finite_or, shrunk_square
from .codebook import OFF_GRID, closest_neighbour, level_of
from .jit import helper, kernel, leaf
from .lanes import LANES, broadcast, int_lanes, load, select, store
from .rounding import f16_bits, nearest_int, within_f16

DELTA = np.float32(0.125)
ZERO, HALF, ONE = np.array([0, 0.5, 1], np.float32)
LEAST_SCORE = np.float32(-3.4028235e38)


class Sorted(NamedTuple):
    """Sub-blocks side by side, sorted by value."""

    values: NDArray[np.float32]  # [n, LANES]
    weights: NDArray[np.float32]  # [n, LANES]
    places: NDArray[np.int32]  # [n, LANES], where in the sub-block the value stands
    largest: NDArray[np.float32]  # [LANES], the largest magnitude


class Split(NamedTuple):
    """The best split: sorted values below `low` are low, from `high` on high."""

    scale: NDArray[np.float32]  # [1, LANES]
    low: NDArray[np.int32]  # [1, LANES], -1 if there is none
    high: NDArray[np.int32]  # [1, LANES]
    shifts: NDArray[np.int32]  # [1, LANES], bit k: the shift of half k is downwards


@leaf
def exchange(column, j, swap):
    """Swap the entries j and j + 1 of the lanes in `swap`."""
    a, b = load(column, j), load(column, j + 1)
    store(column, j, select(swap, b, a))
    store(column, j + 1, select(swap, a, b))


@leaf
def sort_lanes(tile):
    """Sort every lane by value; equal values keep their order."""
    n = tile.values.shape[0]
    for sweep in range(n):
        for j in range(sweep % 2, n - 1, 2):
            swap = load(tile.values, j) > load(tile.values, j + 1)
            exchange(tile.values, j, swap)
            exchange(tile.weights, j, swap)
            exchange(tile.places, j, swap)


@leaf
def take_better(qx, qq, low, high, shifts, best):
    """The best of two splits in each lane; best is (score, scale, low, high, shifts)."""
    score, scale, best_low, best_high, best_shifts = best
    better = (qq > 0) & (qx * qx > score * qq)
    fitted = qx / qq
    score = select(better, fitted * qx, score)
    scale = select(better, fitted, scale)
    return (
        score,
        scale,
        select(better, low, best_low),
        select(better, high, best_high),
        select(better, shifts, best_shifts),
    )


@leaf
def no_split():
    nowhere = int_lanes(broadcast(-1))
    return broadcast(LEAST_SCORE), broadcast(0), nowhere, nowhere, nowhere


@leaf
def levels(down):
    """What low, middle and high values stand for."""
    delta = -DELTA if down else DELTA
    return delta - ONE, delta, delta + ONE


@leaf
def split_with_one_shift(tile, sums):
    """IQ1_S: all values have one shift. sums f32 [2 (n + 1), LANES] is scratch for prefix sums of w x and w."""
    n = tile.values.shape[0]
    sum_x = sum_w = broadcast(0)
    store(sums, 0, sum_x)
    store(sums, 1, sum_w)
    for j in range(n):
        sum_x += load(tile.weights, j) * load(tile.values, j)
        sum_w += load(tile.weights, j)
        store(sums, 2 * j + 2, sum_x)
        store(sums, 2 * j + 3, sum_w)
    best = no_split()
    for low in range(n + 1):
        x0, w0 = load(sums, 2 * low), load(sums, 2 * low + 1)
        for high in range(low, n + 1):
            x1, w1 = load(sums, 2 * high) - x0, load(sums, 2 * high + 1) - w0
            x2, w2 = sum_x - load(sums, 2 * high), sum_w - load(sums, 2 * high + 1)
            for down in range(2):
                q0, q1, q2 = levels(down)
                qx = x0 * q0 + x1 * q1 + x2 * q2
                qq = w0 * q0 * q0 + w1 * q1 * q1 + w2 * q2 * q2
                best = take_better(qx, qq, low, high, 3 * down, best)
    return best


@leaf
def half_sums(sums, n, low, high, half, down):
    """The sums of w q x and w q q of one half of the values.

    With prefix sums S, total T = S[n] and levels q0, q1 = q0 + 1, q2 = q0 + 2 the three parts of w q x add up to
    T q2 - S[low] - S[high]; the reference does so, and for w q q likewise.
    """
    q0, q1, q2 = levels(down)
    qx = load(sums, 4 * n + half) * q2 - (load(sums, 4 * low + half) + load(sums, 4 * high + half))
    total, below, until = load(sums, 4 * n + 2 + half), load(sums, 4 * low + 2 + half), load(sums, 4 * high + 2 + half)
    return qx, total * q2 * q2 + below * (q0 * q0 - q1 * q1) + until * (q1 * q1 - q2 * q2)


@leaf
def split_with_two_shifts(tile, sums):
    """IQ1_M: each half of the sub-block has a shift. sums f32 [4 (n + 1), LANES]: w x and w, of either half each."""
    n = tile.values.shape[0]
    x0 = x1 = w0 = w1 = broadcast(0)
    for j in range(n + 1):
        store(sums, 4 * j, x0)
        store(sums, 4 * j + 1, x1)
        store(sums, 4 * j + 2, w0)
        store(sums, 4 * j + 3, w1)
        if j < n:
            in_first = load(tile.places, j) < n // 2
            w = load(tile.weights, j)
            wx = w * load(tile.values, j)
            x0, x1 = select(in_first, x0 + wx, x0), select(in_first, x1, x1 + wx)
            w0, w1 = select(in_first, w0 + w, w0), select(in_first, w1, w1 + w)
    best = no_split()
    for low in range(n + 1):
        for high in range(low, n + 1):
            for first_down in range(2):
                qx0, qq0 = half_sums(sums, n, low, high, 0, first_down)
                for second_down in range(2):
                    qx1, qq1 = half_sums(sums, n, low, high, 1, second_down)
                    best = take_better(qx0 + qx1, qq0 + qq1, low, high, first_down + 2 * second_down, best)
    return best


@leaf
def choose_points(x, weight, codes, deltas, scale, book, keys):
    """The point of every group of 8 codes, as key; the scale, fitted again if one had to be a neighbour."""
    shape, point_of_key, n_neighbours, first_of, neighbours = book
    all_on_grid = True
    for group in range(keys.size):
        key = np.int32(0)
        for i in range(8):
            key |= np.int32(codes[8 * group + i]) << (2 * i)
        if point_of_key[key] == OFF_GRID:
            all_on_grid = False
            offset = deltas[group] - ONE
            key = closest_neighbour(
                key, x, weight, 8 * group, scale, ONE, offset, shape, n_neighbours, first_of, neighbours
            )
        keys[group] = key
    if all_on_grid:
        return scale
    qx = qq = ZERO
    for i in range(x.size):
        q = np.float32(level_of(keys[i // 8], i % 8, shape)) - ONE + deltas[i // 8]
        qx += weight[i] * q * x[i]
        qq += weight[i] * q * q
    return qx / qq if qx > 0 and qq > 0 else scale


@leaf
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


@leaf
def store_lane(split, tile, lane, book, x, weight, codes, deltas, keys):
    """Codes of one sub-block from its split, then its points, as keys; gives the scale."""
    n, n_groups = x.size, keys.size
    scale, shifts = split.scale[0, lane], split.shifts[0, lane]
    flip = scale < 0
    for j in range(n):
        i = tile.places[j, lane]
        code = np.int32(j >= split.low[0, lane]) + np.int32(j >= split.high[0, lane])
        codes[i] = np.uint8(2 - code if flip else code)
        x[i] = tile.values[j, lane]
        weight[i] = tile.weights[j, lane]
    for group in range(n_groups):
        down = ((shifts >> (2 * group // n_groups)) & 1) != flip
        deltas[group] = -DELTA if down else DELTA
    scale = finite_or(abs(scale), tile.largest[lane])
    return finite_or(choose_points(x, weight, codes, deltas, scale, book, keys), tile.largest[lane])


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
        np.empty((1, LANES), np.float32),
        np.empty((1, LANES), np.int32),
        np.empty((1, LANES), np.int32),
        np.empty((1, LANES), np.int32),
    )


@leaf
def find_splits(tile, sums, split):
    """Sort the lanes and find the best split of each."""
    sort_lanes(tile)
    if tile.values.shape[0] == 32:
        _, scale, low, high, shifts = split_with_one_shift(tile, sums)
    else:
        _, scale, low, high, shifts = split_with_two_shifts(tile, sums)
    store(split.scale, 0, scale)
    store(split.low, 0, low)
    store(split.high, 0, high)
    store(split.shifts, 0, shifts)


@kernel
def search_iq1(blocks, importance, smallest, book, scales, keys, deltas):
    """Scales, points and shifts of blocks of 256 values; sub-blocks of 32 have one shift, those of 16 have two.

    blocks f32 [n_blocks, 256]; importance f32 [n_cols] or empty; written: scales f32 [n_blocks, 256 / sub_size],
    keys of points i32 and deltas f32 [n_blocks, 32]. Sub-blocks with no value as large as `smallest` are left at 0.
    """
    n_subs = scales.shape[1]
    size, n_groups = 256 // n_subs, 32 // n_subs
    blocks_per_row = max(1, importance.size // 256)
    tile, split = make_tile(size), make_split()
    sums = np.empty((4 * (size + 1), LANES), np.float32)
    x, weight, codes = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.uint8)
    squares, shrinks = np.empty(blocks.shape[0], np.float32), np.empty(blocks.shape[0], np.float32)
    for block in range(blocks.shape[0]):
        squares[block], shrinks[block] = shrunk_square(blocks[block])
    scales[:] = 0
    keys[:] = 0
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
            if split.low[0, lane] >= 0 and tile.largest[lane] >= smallest:
                part = slice(n_groups * sub, n_groups * (sub + 1))
                scale = store_lane(split, tile, lane, book, x, weight, codes, deltas[block, part], keys[block, part])
                scales[block, sub] = min(scale / shrinks[block], LARGEST_SCALE)


@kernel
def fit_iq1_m(blocks, importance, scales, keys, deltas, shape, d, codes):
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
            level = np.float32(level_of(keys[block, group], i % 8, shape)) - ONE
            q = (level + deltas[block, group]) * np.float32(2 * code + 1)
            qx += w * q * v
            qq += w * q * q
        unit = finite_or(qx / qq / shrink, unit) if qq > 0 else unit
        d[block, 0] = np.uint16(f16_bits(within_f16(unit * np.float32(1.1125))))

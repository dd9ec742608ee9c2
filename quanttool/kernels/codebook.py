"""Search in a codebook: the scale of a sub-block and the points of its groups of 4 or 8 values, for IQ2 and IQ3.

Follows ggml-quants.c `quantize_row_iq2_xxs_impl` and its neighbours operation by operation. A try rounds all values of
a sub-block with one scale; a group whose rounded values are no point of the codebook takes the closest of a prepared
list of neighbours. TRIES scales are tried side by side, values[i, try], and CHUNK neighbours are measured side by side,
so that inner loops become vector code; each try and each neighbour adds in the order of the scalar code.

Levels are 0, 1, 2... and stand for 1, 3, 5... times the scale. The key of a group is the number whose digits are the
rounded levels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import finite_or, mean_square
from .jit import helper, kernel
from .rounding import float_bits, nearest_int

CHUNK = 8
TRIES = 16
ONE = np.float32(1)
HALF = np.float32(0.5)

POSITIVE_TOP = np.int32(4)
POSITIVE_SWEEPS = 5
LEVELS_OF_2_BITS = np.float32(3)

REFIT_OFF_GRID = 0  # after the tries, choose again the points of groups that were rounded off the grid
REFIT_IF_OFF_GRID = 1  # of all groups, if any was off the grid
REFIT_ALWAYS = 2  # of all groups


class Codebook(NamedTuple):
    """A codebook with, for every key, its point or its neighbours, in chunks padded with their last."""

    levels: NDArray[np.uint8]  # [n_points, dim]
    key_steps: tuple[np.float32, ...]  # dim of them: a tuple, so that code for 4 and 8 dimensions is unrolled
    point_of_key: NDArray[np.int32]  # [n_keys], -1 off the grid
    first_chunk: NDArray[np.int32]  # [n_keys + 1]
    chunk_values: NDArray[np.uint8]  # [n_chunks, dim, CHUNK], 2 * level + 1
    chunk_points: NDArray[np.int32]  # [n_chunks, CHUNK]


def make_codebook(levels: NDArray[np.uint8], n_levels: int, n_distances: int) -> Codebook:
    """Prepare a codebook: the neighbours of a key are all points within its `n_distances` smallest distances.

    They are sorted by distance, then by number, as in ggml-quants.c `iq2xs_init_impl`: the first of equals wins.
    """
    n_points, dim = levels.shape
    key_steps = n_levels ** np.arange(dim)
    point_of_key = np.full(n_levels**dim, -1, np.int32)
    point_of_key[levels @ key_steps] = np.arange(n_points)
    lists = np.empty(len(point_of_key) * n_points, np.int32)  # more than enough; untouched memory costs nothing
    ends = np.zeros(len(point_of_key) + 1, np.int64)
    list_neighbours(levels, n_levels, n_distances, point_of_key, lists, ends)
    lengths = np.diff(ends)
    n_chunks = -(-lengths // CHUNK)
    first_chunk = np.concatenate([[0], np.cumsum(n_chunks)])
    key = np.repeat(np.arange(len(lengths)), n_chunks)
    start = CHUNK * (np.arange(first_chunk[-1]) - first_chunk[key])
    place = np.minimum(start[:, None] + np.arange(CHUNK), lengths[key][:, None] - 1)
    chunk_points = lists[ends[key][:, None] + place]
    chunk_values = np.ascontiguousarray((2 * levels + 1)[chunk_points].transpose(0, 2, 1))
    steps = tuple(np.float32(step) for step in key_steps)
    return Codebook(levels, steps, point_of_key, first_chunk.astype(np.int32), chunk_values, chunk_points)


@kernel
def list_neighbours(levels, n_levels, n_distances, point_of_key, lists, ends):
    """For every key off the grid the neighbours, lists[ends[key]:ends[key + 1]], sorted by distance, then number."""
    n_points, dim = levels.shape
    distance = np.empty(n_points, np.int32)
    counts = np.empty(dim * n_levels * n_levels, np.int64)
    end = 0
    for key in range(point_of_key.size):
        if point_of_key[key] < 0:
            distance[:] = 0
            rest = key
            for i in range(dim):
                for point in range(n_points):
                    off = np.int32(rest % n_levels) - np.int32(levels[point, i])
                    distance[point] += off * off
                rest //= n_levels
            counts[:] = 0
            for point in range(n_points):
                counts[distance[point]] += 1
            wanted = n_distances
            for total in range(counts.size):
                if counts[total] > 0 and wanted > 0:
                    wanted -= 1
                    for point in range(n_points):
                        if distance[point] == total:
                            lists[end] = point
                            end += 1
        ends[key + 1] = end


class SearchRules(NamedTuple):
    """What differs between the types that share this search."""

    sub_size: int  # values with one scale
    sigma2_factor: np.float32  # sigma2 is this times the mean square of the block
    plain_sigma2: np.float32  # weights without importance are x^2 plus this times sigma2
    even_signs: bool  # the number of minus signs in 8 values must be even
    smallest: np.float32  # sub-blocks with no larger value are all zero
    fit_first: bool  # the tries start from a fit to integers instead of the largest value
    first_try: int  # the tries are -first_try ... first_try
    try_step: np.float32
    top: np.float32  # what the largest level stands for
    refit: int


@helper
def key_of(codes, column, group, book):
    """The key of the levels codes[dim * group + i, column]."""
    dim = len(book.key_steps)
    key = np.float32(0)
    for i in range(dim):
        key += codes[dim * group + i, column] * book.key_steps[i]
    return np.int32(key)


@helper
def closest_neighbour(key, x, root_weight, group, scale, book):
    """Number of the point among the neighbours of `key` with the smallest sum of root_weight (scale q - x)^2."""
    dim = len(book.key_steps)
    start = book.first_chunk[key]
    best = np.int64(np.iinfo(np.int64).max)
    for chunk in range(start, book.first_chunk[key + 1]):
        for lane in range(CHUNK):
            error = np.float32(0)
            for i in range(dim):
                off = scale * np.float32(book.chunk_values[chunk, i, lane]) - x[dim * group + i]
                error += root_weight[dim * group + i] * off * off
            # The error's bits compare as the error does; the place breaks ties: an integer minimum is vector code.
            candidate = (np.int64(float_bits(error) & 0x7FFFFFFF) << 32) | (CHUNK * np.int64(chunk - start) + lane)
            best = candidate if candidate < best else best
    place = best & 0xFFFFFFFF
    return book.chunk_points[start + place // CHUNK, place % CHUNK]


@helper
def find_points(n_tries, x, root_weight, scales, book, codes, points, on_grid):
    """For every group and try: the point of the rounded codes, or else the closest neighbour, which replaces them."""
    dim = len(book.key_steps)
    for group in range(x.size // dim):
        for t in range(n_tries):
            key = key_of(codes, t, group, book)
            point = book.point_of_key[key]
            on_grid[group, t] = point >= 0
            if point < 0:
                point = closest_neighbour(key, x, root_weight, group, scales[t], book)
                for i in range(dim):
                    codes[dim * group + i, t] = np.float32(book.levels[point, i])
            points[group, t] = point


@helper
def round_codes(x, inverses, top, codes):
    """codes[i, try] = the level nearest to x[i] * inverses[try], as float."""
    highest = np.int32((top - ONE) * HALF)
    for i in range(x.size):
        for t in range(TRIES):
            level = nearest_int(HALF * (inverses[t] * x[i] - ONE))
            level = np.int32(0) if level < 0 else level
            level = highest if level > highest else level
            codes[i, t] = np.float32(level)


@helper
def fit_sums(x, weight, codes, sums):
    """For every try the sums of w x q and of w q q, in order of the values."""
    sums[:] = 0
    for i in range(x.size):
        for t in range(TRIES):
            q = np.float32(2) * codes[i, t] + ONE
            sums[0, t] += weight[i] * x[i] * q
            sums[1, t] += weight[i] * q * q


class Work(NamedTuple):
    """One sub-block under search."""

    x: NDArray[np.float32]  # [n] magnitudes; at most one in eight negative, where signs must be even
    weight: NDArray[np.float32]  # [n]
    root_weight: NDArray[np.float32]  # [n], the weights that choose between neighbours
    inverses: NDArray[np.float32]  # [TRIES]
    scales: NDArray[np.float32]  # [TRIES]
    codes: NDArray[np.float32]  # [n, TRIES]
    points: NDArray[np.int32]  # [n / dim, TRIES]
    on_grid: NDArray[np.bool_]  # [n / dim, TRIES]
    sums: NDArray[np.float32]  # [2, TRIES]
    best_codes: NDArray[np.float32]  # [n]
    best_points: NDArray[np.int32]  # [n / dim]
    best_on_grid: NDArray[np.bool_]  # [n / dim]


@helper
def make_work(n, dim):
    return Work(
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(TRIES, np.float32),
        np.empty(TRIES, np.float32),
        np.empty((n, TRIES), np.float32),
        np.empty((n // dim, TRIES), np.int32),
        np.empty((n // dim, TRIES), np.bool_),
        np.empty((2, TRIES), np.float32),
        np.empty(n, np.float32),
        np.empty(n // dim, np.int32),
        np.empty(n // dim, np.bool_),
    )


@helper
def load_values(values, importance, sigma2, plain_sigma2, work):
    """Weights of a sub-block: importance * sqrt(sigma2 + x^2), or plain_sigma2 + x^2 without importance."""
    for i in range(values.size):
        square = values[i] * values[i]
        if importance.size:
            work.weight[i] = importance[i] * np.sqrt(sigma2 + square)
        else:
            work.weight[i] = plain_sigma2 + square
        work.root_weight[i] = np.sqrt(work.weight[i])


@helper
def split_signs(values, even_signs, work, signs):
    """Magnitudes of the values, and a sign byte for every 8; for even signs the cheapest value keeps a wrong one."""
    for group in range(values.size // 8):
        bits = np.int32(0)
        cheapest, least, flips = 0, np.float32(0), 0
        for i in range(8):
            value = values[8 * group + i]
            cost = work.weight[8 * group + i] * value * value
            if i == 0 or cost < least:
                cheapest, least = i, cost
            if value < 0:
                bits |= np.int32(1 << i)
                flips += 1
            work.x[8 * group + i] = -value if value < 0 else value
        if even_signs:
            if flips % 2:
                bits ^= np.int32(1 << cheapest)
                work.x[8 * group + cheapest] = -work.x[8 * group + cheapest]
            bits &= np.int32(127)
        signs[group] = np.uint8(bits)


@helper
def wrapped(level):
    """The level as the reference keeps it, in a byte: -1 comes back as 255."""
    return np.float32(level & 255)


@helper
def positive_error(x, weight, inverse, wrap):
    """Weighted sum of squared errors with levels up to 4."""
    scale = ONE / inverse
    error = np.float32(0)
    for i in range(x.size):
        level = nearest_int(inverse * x[i])
        q = wrapped(level) if wrap else np.float32(min(level, POSITIVE_TOP))
        off = x[i] - scale * q
        error += weight[i] * off * off
    return error


@helper
def positive_scale(x, weight, largest, level):
    """The scale that fits x to integers up to 4 (ggml-quants.c `make_qp_quants`, called with `kMaxQ + 1`).

    A first guess, then single levels are moved while that helps. Values below zero are rounded to negative levels,
    which the reference keeps in unsigned bytes; to agree with its bytes so does this.
    """
    top = np.float32(POSITIVE_TOP)
    inverse = top / largest
    least = positive_error(x, weight, inverse, True)
    for step in range(-4, 5):
        if step != 0:
            other = (np.float32(0.1) * np.float32(step) + top) / largest
            error = positive_error(x, weight, other, False)
            if error < least:
                least, inverse = error, other
    sum_lx = sum_l2 = np.float32(0)
    for i in range(x.size):
        l = min(nearest_int(inverse * x[i]), POSITIVE_TOP)
        level[i] = wrapped(l)
        sum_lx += weight[i] * x[i] * np.float32(l)
        sum_l2 += weight[i] * np.float32(l) * np.float32(l)
    for _ in range(POSITIVE_SWEEPS):
        changed = False
        for i in range(x.size):
            lx = sum_lx - weight[i] * x[i] * level[i]
            l2 = sum_l2 - weight[i] * level[i] * level[i]
            if lx > 0 and l2 > 0:
                new = min(nearest_int(x[i] * l2 / lx), POSITIVE_TOP)
                if np.float32(new) != level[i]:
                    lx += weight[i] * x[i] * np.float32(new)
                    l2 += weight[i] * np.float32(new) * np.float32(new)
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2:
                        level[i] = wrapped(new)
                        sum_lx, sum_l2 = lx, l2
                        changed = True
        if not changed:
            break
    return sum_lx / sum_l2 if sum_l2 > 0 else np.float32(0)


@helper
def try_scales(largest, scale, rules, book, work):
    """The best of the tries, whose codes and points stay in work; `scale` if none is better than nothing."""
    work.best_codes[:] = 0
    work.best_points[:] = 0
    work.best_on_grid[:] = rules.refit == REFIT_OFF_GRID
    best = np.float32(0)
    for first in range(-rules.first_try, rules.first_try + 1, TRIES):
        n_tries = min(TRIES, rules.first_try + 1 - first)
        for t in range(TRIES):
            work.inverses[t] = (rules.top + np.float32(first + t) * rules.try_step) / largest
            work.scales[t] = ONE / work.inverses[t]
        round_codes(work.x, work.inverses, rules.top, work.codes)
        find_points(n_tries, work.x, work.root_weight, work.scales, book, work.codes, work.points, work.on_grid)
        fit_sums(work.x, work.weight, work.codes, work.sums)
        for t in range(n_tries):
            qx, qq = work.sums[0, t], work.sums[1, t]
            if qq > 0 and qx * qx > best * qq:
                scale = qx / qq
                best = scale * qx
                work.best_codes[:] = work.codes[:, t]
                work.best_points[:] = work.points[:, t]
                work.best_on_grid[:] = work.on_grid[:, t]
    return scale


@helper
def refit(scale, rules, book, work):
    """Round once more with the best scale, then fit the scale to the codes."""
    dim = len(book.key_steps)
    if not scale > 0 or (rules.refit != REFIT_ALWAYS and work.best_on_grid.all()):
        return scale
    work.scales[0] = scale
    work.inverses[:] = ONE / scale
    round_codes(work.x, work.inverses, rules.top, work.codes)
    if rules.refit == REFIT_OFF_GRID:
        for i in range(work.x.size):
            if work.best_on_grid[i // dim]:
                work.codes[i, 0] = work.best_codes[i]
    find_points(1, work.x, work.root_weight, work.scales, book, work.codes, work.points, work.on_grid)
    fit_sums(work.x, work.weight, work.codes, work.sums)
    work.best_points[:] = work.points[:, 0]
    return work.sums[0, 0] / work.sums[1, 0] if work.sums[1, 0] > 0 else scale


@kernel
def search_codebook(blocks, importance, rules, book, scales, points, signs):
    """Scales, points and signs of blocks of 256 values.

    blocks f32 [n_blocks, 256]; importance f32 [n_cols] or empty; written: scales f32 [n_blocks, 256 / sub_size],
    points i32 [n_blocks, 256 / dim], signs u8 [n_blocks, 32], a byte (even signs: 7 bits) for every 8 values.
    """
    size, dim = rules.sub_size, len(book.key_steps)
    blocks_per_row = max(1, importance.size // 256)
    work = make_work(size, dim)
    scales[:] = 0
    points[:] = 0
    signs[:] = 0
    for block in range(blocks.shape[0]):
        sigma2 = rules.sigma2_factor * mean_square(blocks[block])
        for sub in range(256 // size):
            values = blocks[block, size * sub : size * sub + size]
            start = block % blocks_per_row * 256 + size * sub
            load_values(values, importance[start : start + size], sigma2, rules.plain_sigma2 * sigma2, work)
            sub_signs = signs[block, size // 8 * sub : size // 8 * (sub + 1)]
            split_signs(values, rules.even_signs, work, sub_signs)
            largest = work.x.max()
            if largest < rules.smallest:
                sub_signs[:] = 0
                continue
            scale, reach = largest / rules.top, largest
            if rules.fit_first:
                scale = positive_scale(work.x, work.weight, largest, work.best_codes)
                reach = scale * LEVELS_OF_2_BITS
                if reach <= 0:
                    sub_signs[:] = 0
                    continue
            scale = try_scales(reach, scale, rules, book, work)
            scale = refit(scale, rules, book, work)
            if scale < 0:
                sub_signs[:] = ~sub_signs & np.uint8(127 if rules.even_signs else 255)
            scales[block, sub] = finite_or(abs(scale), largest / rules.top)
            points[block, size // dim * sub : size // dim * (sub + 1)] = work.best_points
        if rules.even_signs and scales[block].max() == 0:
            points[block] = 0
            signs[block] = 0

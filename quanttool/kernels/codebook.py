"""Codebooks of the i-quants: points of 4 or 8 levels, and which of them are near to levels that are no point.

Levels are 0, 1, 2... and stand for 1, 3, 5... times a scale. A key holds the levels of a group, 2 bits each of 8 or
3 bits each of 4, the first lowest. Follows ggml-quants.c `iq2xs_init_impl` and `iq3xs_init_impl`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .jit import kernel, leaf
from .lanes import bit_lanes, float_lanes, load_16, number_at, select, smallest_int_lane

LARGEST_BITS = np.int32(0x7F7FFFFF)  # of the largest float32
LARGEST_INT = np.int32(0x7FFFFFFF)
COUNT_16 = np.arange(16, dtype=np.int32)
OFF_GRID = np.int32(-1)


class Codebook(NamedTuple):
    """A codebook with, for every key, its point or its neighbours."""

    shape: tuple[int, ...]  # [dim] ones: a tuple's length is known to the compiler, which unrolls loops over it
    point_of_key: NDArray[np.int32]  # [n_keys], OFF_GRID if it is no point
    n_neighbours: NDArray[np.int32]  # [n_keys]
    first: NDArray[np.int32]  # [n_keys], where in `neighbours` they start
    neighbours: NDArray[np.int32]  # keys; the last neighbour of a key is repeated up to a multiple of 16


def make_codebook(levels: NDArray[np.uint8], n_distances: int) -> Codebook:
    """Prepare a codebook of points u8 [n_points, dim].

    The neighbours of a key are all points within its `n_distances` smallest distances, sorted by distance, then by
    number: the first of equals will win, so their order matters.
    """
    n_points, dim = levels.shape
    bits, n_levels = (2, 3) if dim == 8 else (3, 8)
    shifts = bits * np.arange(dim)
    keys_of_points = (levels.astype(np.int32) << shifts).sum(axis=1, dtype=np.int32)
    point_of_key = np.full(1 << bits * dim, OFF_GRID)
    point_of_key[keys_of_points] = np.arange(n_points)
    needed = np.ones(1, bool)  # keys with all levels below n_levels
    for _ in range(dim):
        needed = (np.arange(1 << bits) < n_levels)[:, None] & needed
        needed = needed.reshape(-1)
    off_grid = np.flatnonzero(needed & (point_of_key == OFF_GRID))
    lists = np.empty(len(off_grid) * n_points, np.int32)  # more than enough; untouched memory costs nothing
    lengths = np.empty(len(off_grid), np.int64)
    list_neighbours(levels, off_grid, bits, n_distances, lists, lengths)
    padded = -(-lengths // 16) * 16
    first = np.cumsum(padded) - padded
    list_of = np.repeat(np.arange(len(off_grid)), padded)
    place = np.minimum(np.arange(padded.sum()) - first[list_of], lengths[list_of] - 1)
    points = lists[(np.cumsum(lengths) - lengths)[list_of] + place]
    return Codebook(
        (1,) * dim,
        point_of_key,
        spread(lengths, off_grid, len(point_of_key)),
        spread(first, off_grid, len(point_of_key)),
        keys_of_points[points],
    )


def spread(values, places, n):
    """i32 [n], zero but for values[k] at places[k]."""
    out = np.zeros(n, np.int32)
    out[places] = values
    return out


@kernel
def list_neighbours(levels, keys, bits, n_distances, lists, lengths):
    """The neighbours of every key, one list after the other, and how long each is."""
    n_points, dim = levels.shape
    distance = np.empty(n_points, np.int32)
    counts = np.empty(dim << 2 * bits, np.int64)
    end = 0
    for k in range(keys.size):
        start = end
        distance[:] = 0
        for i in range(dim):
            level = np.int32((keys[k] >> (bits * i)) & ((1 << bits) - 1))
            for point in range(n_points):
                off = level - np.int32(levels[point, i])
                distance[point] += off * off
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
        lengths[k] = end - start


@leaf
def key_bits(shape):
    """Bits of a level in a key."""
    return 2 if len(shape) == 8 else 3


@leaf
def count_levels(shape):
    """Levels of a value; where there are three, the fourth code is not used."""
    return 3 if len(shape) == 8 else 8


@leaf
def level_of(key, i, shape):
    """The level of value i, of one key or of lanes of them."""
    bits = key_bits(shape)
    return (key >> bits * i) & ((1 << bits) - 1)


@leaf
def closest_neighbour(key, x, weight, start, scale, slope, offset, shape, n_neighbours, first, neighbours):
    """The neighbour of a key with the smallest sum of weight (scale q - x)^2, the first of equals, as key.

    q is slope * level + offset; x and weight f32 [n] are read from `start` on.
    """
    nothing = load_16(neighbours, first[key]) & 0
    least, place = nothing | LARGEST_BITS, nothing
    for k in range(first[key], first[key] + n_neighbours[key], 16):
        candidates = load_16(neighbours, k)
        error = float_lanes(nothing)
        for i in range(len(shape)):
            off = scale * (float_lanes(level_of(candidates, i, shape)) * slope + offset) - number_at(x, start + i)
            error += number_at(weight, start + i) * off * off
        bits = bit_lanes(error)  # compare as the errors do, none of which is negative
        better = bits < least
        least = select(better, bits, least)
        place = select(better, k, place)
    place += load_16(COUNT_16, 0)
    found = smallest_int_lane(select(least == smallest_int_lane(least), place, LARGEST_INT))
    return neighbours[found]

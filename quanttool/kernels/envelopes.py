"""The best point of a codebook for a group of values, as a function of the scale.

With scale s, importance w, magnitudes x and a point g, the error is s (s sum w g^2 - 2 sum w x g) plus a constant: the
bracket is a straight line in s for each point. Which point is best at which scale is told by the lower envelope of
these lines, and a point off it is best nowhere. `find_lines` gives the few points that may be on it.

Where the number of minus signs must be even and that of the values is odd, one value gets the wrong sign. That adds
4 s w x g, least where w x g is least, whatever the scale: a straight line again.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .jit import leaf
from .lanes import (
    LANES,
    broadcast,
    int_lanes,
    load,
    lowest_bit,
    mask_bits,
    multiply_add,
    number_at,
    select,
    smaller,
    smallest_int_lane,
    smallest_lane,
    store,
)

LARGEST = np.float32(3.4028235e38)
LARGEST_INT = np.int32(0x7FFFFFFF)
LANE = np.arange(LANES, dtype=np.int32)[None]  # tile with the number of each lane
TWO = np.float32(2)


class Points(NamedTuple):
    """The points of a codebook, LANES of them to a tile's row."""

    shape: tuple[int, ...]  # [dim] ones, see `codebook.Codebook`
    book: NDArray[np.float32]  # [n_points * dim]
    values: NDArray[np.float32]  # tile [n_chunks * dim, LANES]
    squares: NDArray[np.float32]  # tile [n_groups * n_chunks, LANES]: sum w g^2, written


class Lines(NamedTuple):
    """Lists of the points that may be best; list l is from first[l] up to first[l] + count[l]."""

    squares: NDArray[np.float32]  # [n], sum w g^2
    losses: NDArray[np.float32]  # [n], -2 sum w x g
    point: NDArray[np.int32]  # [n]
    first: NDArray[np.int64]  # [n_lists]
    count: NDArray[np.int64]  # [n_lists]


class Scratch(NamedTuple):
    """Of the group at hand."""

    losses: NDArray[np.float32]  # tile [n_chunks, LANES]: -2 sum w x g
    kept: NDArray[np.int64]  # [n_chunks], a bit for each point that may be best
    best: NDArray[np.int64]  # [n_probes], the best point at each scale
    crossings: NDArray[np.float32]  # [n_probes], scales where two of these are equal
    values: NDArray[np.float32]  # [n_probes], and what they are there


@leaf
def weigh_points(weight, points):
    """points.squares, for the groups of weight f32 [n_groups * dim]."""
    shape, _, values, squares = points
    dim = len(shape)
    n_chunks = values.shape[0] // dim
    for group in range(weight.size // dim):
        for chunk in range(n_chunks):
            total = broadcast(0)
            for i in range(dim):
                g = load(values, chunk * dim + i)
                total = multiply_add(g * number_at(weight, dim * group + i), g, total)
            store(squares, group * n_chunks + chunk, total)


@leaf
def find_losses(wx, at, n, flip, points, losses):
    """-2 sum w x g of the points of n rows; with `flip` one product, the smallest, counts negative."""
    shape, _, values, _ = points
    dim = len(shape)
    for chunk in range(n):
        total = broadcast(0)
        for i in range(dim):
            total = multiply_add(load(values, chunk * dim + i), number_at(wx, at + i), total)
        if flip:
            least = broadcast(LARGEST)
            for i in range(dim):
                least = smaller(load(values, chunk * dim + i) * number_at(wx, at + i), least)
            total = total - TWO * least
        store(losses, chunk, total * -TWO)


@leaf
def first_smallest(values, chunks):
    """Number of the point with the smallest of values, given the rows that lanes come from."""
    places = chunks * LANES + load(LANE, 0)
    return smallest_int_lane(select(values == smallest_lane(values), places, LARGEST_INT))


@leaf
def best_of_four(scales, at, n, losses, squares, first, best):
    """Into best[at : at + 4] the points that are best at scales[at : at + 4]: one look at each serves four scales."""
    a, b, c, d = scales[at], scales[at + 1], scales[at + 2], scales[at + 3]
    least_a = least_b = least_c = least_d = broadcast(LARGEST)
    where_a = where_b = where_c = where_d = int_lanes(broadcast(0))
    for chunk in range(n):
        loss, square = load(losses, chunk), load(squares, first + chunk)
        v = multiply_add(square, a, loss)
        where_a, least_a = select(v < least_a, chunk, where_a), smaller(v, least_a)
        v = multiply_add(square, b, loss)
        where_b, least_b = select(v < least_b, chunk, where_b), smaller(v, least_b)
        v = multiply_add(square, c, loss)
        where_c, least_c = select(v < least_c, chunk, where_c), smaller(v, least_c)
        v = multiply_add(square, d, loss)
        where_d, least_d = select(v < least_d, chunk, where_d), smaller(v, least_d)
    best[at] = first_smallest(least_a, where_a)
    best[at + 1] = first_smallest(least_b, where_b)
    best[at + 2] = first_smallest(least_c, where_c)
    best[at + 3] = first_smallest(least_d, where_d)


@leaf
def find_crossings(losses, squares, first, scratch):
    """The scales where neighbours among the best points are equal, and their value there; gives how many there are."""
    best, kept, crossings, values = scratch.best, scratch.kept, scratch.crossings, scratch.values
    n, p = 0, best[0]
    kept[p // LANES] |= np.int64(1) << (p % LANES)
    for k in range(1, best.size):
        q = best[k]
        if q == p:
            continue
        kept[q // LANES] |= np.int64(1) << (q % LANES)
        loss, square = number_at(losses, p), number_at(squares, first * LANES + p)
        other_loss, other_square = number_at(losses, q), number_at(squares, first * LANES + q)
        if square > other_square:
            crossings[n] = (other_loss - loss) / (square - other_square)
            values[n] = square * crossings[n] + loss
            n += 1
        p = q
    return n


@leaf
def keep_below(n_crossings, n, losses, squares, first, scratch):
    """Mark the points that are below one of the crossings."""
    kept, crossings, values = scratch.kept, scratch.crossings, scratch.values
    for chunk in range(n):
        loss, square = load(losses, chunk), load(squares, first + chunk)
        below = broadcast(False)
        for k in range(n_crossings):
            below |= multiply_add(square, crossings[k], loss) < values[k]
        kept[chunk] |= mask_bits(below)


@leaf
def keep_lines(scales, n, losses, squares, first, scratch, lines, end):
    """Append the points that may be best between the first and the last of `scales`; gives the new end of the lists.

    Between two scales a point is on the envelope only if it is below both their best points where these are equal,
    because an envelope is concave.

    scales:   f32 [n_probes], ascending, a multiple of four
    losses:   tile, of which the first n rows count
    squares:  tile, of which the n rows from `first` on count
    lines:    points are written as their places among these
    """
    kept = scratch.kept
    kept[:n] = 0
    for at in range(0, scales.size, 4):
        best_of_four(scales, at, n, losses, squares, first, scratch.best)
    n_crossings = find_crossings(losses, squares, first, scratch)
    keep_below(n_crossings, n, losses, squares, first, scratch)
    for chunk in range(n):
        bits = kept[chunk]
        while bits:
            place = chunk * LANES + lowest_bit(bits)
            lines.losses[end] = number_at(losses, place)
            lines.squares[end] = number_at(squares, first * LANES + place)
            lines.point[end] = np.int32(place)
            end += 1
            bits &= bits - 1
    return end

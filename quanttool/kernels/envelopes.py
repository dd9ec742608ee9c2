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

from .jit import helper
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
    """The points of a codebook, LANES of them to a tile's row; tables have all points with one of the shifts added."""

    shape: tuple[int, ...]  # [dim] ones, see `codebook.Codebook`
    values: NDArray[np.float32]  # tile [n_chunks * dim, LANES]
    shifts: NDArray[np.float32]  # [n_tables]
    squares: NDArray[np.float32]  # tile [n_tables * n_groups * n_chunks, LANES]: sum w g^2


class Lines(NamedTuple):
    """Lists of the points that may be best; list l is from first[l] up to first[l] + count[l]."""

    squares: NDArray[np.float32]  # [n], sum w g^2
    losses: NDArray[np.float32]  # [n], -2 sum w x g
    point: NDArray[np.int32]  # [n]
    first: NDArray[np.int64]  # [n_lists]
    count: NDArray[np.int64]  # [n_lists]


class Scratch(NamedTuple):
    """Of the group at hand, or of four."""

    losses: NDArray[np.float32]  # tile [n_chunks, LANES], or four: -2 sum w x g of all points
    kept: NDArray[np.int64]  # [n_chunks], a bit for each point that may be best


@helper
def weigh_points(weight, points):
    """points.squares, for the groups of weight f32 [n_groups * dim]."""
    shape, values, shifts, squares = points
    dim = len(shape)
    n_chunks, n_groups = values.shape[0] // dim, weight.size // dim
    for group in range(n_groups):
        all_weights = weight[dim * group : dim * (group + 1)].sum()
        for chunk in range(n_chunks):
            total = total_square = broadcast(0)
            for i in range(dim):
                g = load(values, chunk * dim + i)
                wg = g * number_at(weight, dim * group + i)
                total += wg
                total_square = multiply_add(wg, g, total_square)
            for table in range(shifts.size):  # sum w (g + shift)^2
                shift = shifts[table]
                square = (total * TWO + all_weights * shift) * shift + total_square
                store(squares, (table * n_groups + group) * n_chunks + chunk, square)


@helper
def find_losses(wx, at, flip, points, losses):
    """-2 sum w x g of every point without shift; with `flip` one product, the smallest, counts negative."""
    shape, values, _, _ = points
    dim = len(shape)
    for chunk in range(losses.shape[0]):
        total = broadcast(0)
        for i in range(dim):
            total = multiply_add(load(values, chunk * dim + i), number_at(wx, at + i), total)
        if flip:
            least = broadcast(LARGEST)
            for i in range(dim):
                least = smaller(load(values, chunk * dim + i) * number_at(wx, at + i), least)
            total = total - TWO * least
        store(losses, chunk, total * -TWO)


@helper
def find_losses_of_four(wx, at, points, losses):
    """As `find_losses` for four groups, one after the other: large codebooks are read once instead of four times."""
    shape, values, _, _ = points
    dim, n_chunks = len(shape), losses.shape[0] // 4
    for chunk in range(n_chunks):
        a = b = c = d = broadcast(0)
        for i in range(dim):
            g = load(values, chunk * dim + i)
            a = multiply_add(g, number_at(wx, at + i), a)
            b = multiply_add(g, number_at(wx, at + dim + i), b)
            c = multiply_add(g, number_at(wx, at + 2 * dim + i), c)
            d = multiply_add(g, number_at(wx, at + 3 * dim + i), d)
        store(losses, chunk, a * -TWO)
        store(losses, n_chunks + chunk, b * -TWO)
        store(losses, 2 * n_chunks + chunk, c * -TWO)
        store(losses, 3 * n_chunks + chunk, d * -TWO)


@helper
def first_smallest(values, chunks):
    """Number of the point with the smallest of values, given the rows that lanes come from."""
    places = chunks * LANES + load(LANE, 0)
    return smallest_int_lane(select(values == smallest_lane(values), places, LARGEST_INT))


@helper
def best_point(scale, losses, squares, first):
    """Number of the point that is best at a scale."""
    least, where = broadcast(LARGEST), int_lanes(broadcast(0))
    for chunk in range(losses.shape[0]):
        v = multiply_add(load(squares, first + chunk), scale, load(losses, chunk))
        where = select(v < least, chunk, where)
        least = smaller(v, least)
    return first_smallest(least, where)


@helper
def keep_below(scale, value, losses, squares, first, kept):
    """Mark the points that are better than `value` at a scale."""
    for chunk in range(losses.shape[0]):
        kept[chunk] |= mask_bits(multiply_add(load(squares, first + chunk), scale, load(losses, chunk)) < value)


@helper
def keep_between(p, q, losses, squares, first, kept):
    """Mark the points that may be best at some scale between one where p and a higher one where q is best."""
    kept[p // LANES] |= np.int64(1) << (p % LANES)
    kept[q // LANES] |= np.int64(1) << (q % LANES)
    loss, square = number_at(losses, p), number_at(squares, first * LANES + p)
    other_loss, other_square = number_at(losses, q), number_at(squares, first * LANES + q)
    if square > other_square:
        scale = (other_loss - loss) / (square - other_square)  # where the two are equal
        keep_below(scale, square * scale + loss, losses, squares, first, kept)


@helper
def find_lines(low, high, n_probes, shift_loss, first, points, losses, kept, lines, end):
    """Append the points that may be best between the scales `low` and `high`; gives the new end of the lists.

    Best points are looked for at n_probes scales. Between two of these a point is on the envelope only if it is below
    both their best points where these are equal, because an envelope is concave.

    losses: tile [n_chunks, LANES]; kept: see `Scratch`
    shift_loss: what the points' shift adds to their losses; first: row of the group's table in points.squares
    """
    squares = points.squares
    kept[:] = 0
    step = (high / low) ** (np.float32(1) / np.float32(n_probes - 1))
    scale = low
    p = best_point(scale, losses, squares, first)
    for _ in range(n_probes - 1):
        scale *= step
        q = best_point(scale, losses, squares, first)
        keep_between(p, q, losses, squares, first, kept)
        p = q
    for chunk in range(kept.size):
        bits = kept[chunk]
        while bits:
            place = chunk * LANES + lowest_bit(bits)
            lines.losses[end] = number_at(losses, place) + shift_loss
            lines.squares[end] = number_at(squares, first * LANES + place)
            lines.point[end] = np.int32(place)
            end += 1
            bits &= bits - 1
    return end

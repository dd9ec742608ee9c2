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

THIRD = np.float32(1 / 3)


class Points(NamedTuple):
    """Tables of points, value by value, LANES points to a tile's row; a second table has the same points shifted."""

    shape: tuple[int, ...]  # [dim] ones, see `codebook.Codebook`
    values: NDArray[np.float32]  # tile [n_tables * dim * n_chunks, LANES]
    squares: NDArray[np.float32]  # tile [n_tables * n_groups * n_chunks, LANES]: sum w g^2


class Lines(NamedTuple):
    """Lists of the points that may be best; list l is from first[l] up to first[l] + count[l]."""

    squares: NDArray[np.float32]  # [n], sum w g^2
    losses: NDArray[np.float32]  # [n], -2 sum w x g
    point: NDArray[np.int32]  # [n]
    first: NDArray[np.int32]  # [n_lists]
    count: NDArray[np.int32]  # [n_lists]


@helper
def weigh_points(weight, n_tables, points):
    """points.squares, for the groups of weight f32 [n_groups * dim]."""
    shape, values, squares = points
    dim = len(shape)
    n_groups = weight.size // dim
    n_chunks = squares.shape[0] // (n_tables * n_groups)
    for table in range(n_tables):
        for group in range(n_groups):
            for chunk in range(n_chunks):
                total = broadcast(0)
                for i in range(dim):
                    g = load(values, (table * n_chunks + chunk) * dim + i)
                    total = multiply_add(g * g, number_at(weight, dim * group + i), total)
                store(squares, (table * n_groups + group) * n_chunks + chunk, total)


@helper
def find_losses(wx, at, table, flip, points, losses):
    """-2 sum w x g of every point; with `flip` one product, the smallest, counts negative. losses: tile."""
    shape, values, _ = points
    dim, n_chunks = len(shape), losses.shape[0]
    for chunk in range(n_chunks):
        first = (table * n_chunks + chunk) * dim
        total = broadcast(0)
        for i in range(dim):
            total = multiply_add(load(values, first + i), number_at(wx, at + i), total)
        if flip:
            least = broadcast(LARGEST)
            for i in range(dim):
                least = smaller(load(values, first + i) * number_at(wx, at + i), least)
            total = total - TWO * least
        store(losses, chunk, total * -TWO)


@helper
def first_smallest(values, chunks):
    """Number of the point with the smallest of values, given the rows that lanes come from."""
    places = chunks * LANES + load(LANE, 0)
    return smallest_int_lane(select(values == smallest_lane(values), places, LARGEST_INT))


@helper
def probe(low, high, losses, squares, first):
    """Best points at four scales from `low` to `high`."""
    step = (high / low) ** THIRD
    s0, s1, s2, s3 = low, low * step, high / step, high
    v0 = v1 = v2 = v3 = broadcast(LARGEST)
    c0 = c1 = c2 = c3 = int_lanes(broadcast(0))
    for chunk in range(losses.shape[0]):
        loss, square = load(losses, chunk), load(squares, first + chunk)
        v = multiply_add(square, s0, loss)
        c0, v0 = select(v < v0, chunk, c0), smaller(v, v0)
        v = multiply_add(square, s1, loss)
        c1, v1 = select(v < v1, chunk, c1), smaller(v, v1)
        v = multiply_add(square, s2, loss)
        c2, v2 = select(v < v2, chunk, c2), smaller(v, v2)
        v = multiply_add(square, s3, loss)
        c3, v3 = select(v < v3, chunk, c3), smaller(v, v3)
    return first_smallest(v0, c0), first_smallest(v1, c1), first_smallest(v2, c2), first_smallest(v3, c3)


@helper
def kink(p, q, losses, squares, first):
    """Where the lines of two points meet: scale and value; a value that no line is below if they do not."""
    loss, square = number_at(losses, p), number_at(squares, first * LANES + p)
    other_loss, other_square = number_at(losses, q), number_at(squares, first * LANES + q)
    if not square > other_square:
        return np.float32(1), -LARGEST
    scale = (other_loss - loss) / (square - other_square)
    return scale, square * scale + loss


@helper
def append_line(p, losses, squares, first, lines, end):
    """Add the point to the lists."""
    lines.losses[end] = number_at(losses, p)
    lines.squares[end] = number_at(squares, first * LANES + p)
    lines.point[end] = np.int32(p)
    return end + 1


@helper
def find_lines(low, high, losses, squares, first, lines, end):
    """Append the points that may be best between the scales `low` and `high`; gives the new end of the lists.

    Between two scales a point is on the envelope only if it is below both their best points where these are equal.
    losses: tile [n_chunks, LANES]; squares: tile, from row `first` on.
    """
    p0, p1, p2, p3 = probe(low, high, losses, squares, first)
    s0, u0 = kink(p0, p1, losses, squares, first)
    s1, u1 = kink(p1, p2, losses, squares, first)
    s2, u2 = kink(p2, p3, losses, squares, first)
    end = append_line(p0, losses, squares, first, lines, end)
    if p1 != p0:
        end = append_line(p1, losses, squares, first, lines, end)
    if p2 != p1:
        end = append_line(p2, losses, squares, first, lines, end)
    if p3 != p2:
        end = append_line(p3, losses, squares, first, lines, end)
    for chunk in range(0, losses.shape[0], 2):
        bits = np.int64(0)
        for half in range(2):
            loss, square = load(losses, chunk + half), load(squares, first + chunk + half)
            below = multiply_add(square, s0, loss) < u0
            below |= multiply_add(square, s1, loss) < u1
            below |= multiply_add(square, s2, loss) < u2
            bits |= mask_bits(below) << (LANES * half)
        while bits:
            end = append_line(chunk * LANES + lowest_bit(bits), losses, squares, first, lines, end)
            bits &= bits - 1
    return end

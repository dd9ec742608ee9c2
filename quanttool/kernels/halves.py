"""Which points of a large codebook can be best at some scale: most of them are never looked at.

A class are the points that agree in one half of their values. The best that a point of a class can do is what its class
does in that half and the best of all classes does in the other one. At each scale that is a number, and in between it
is no less than a straight line between two such numbers (an envelope is concave). A class is out if that line is above
what two of the points have to offer.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .envelopes import LARGEST, TWO, first_smallest
from .jit import helper, leaf
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
    smallest_lane,
    store,
)

FAR = np.float32(1e30)  # the square of what fills up a tile
SLACK = np.float32(1e-5)  # a class is out if it is worse by so much of the value; more than rounding


class Halves(NamedTuple):
    """A codebook in two orders, by class of the first half of values and of the second, LANES points to a tile's row.

    A class begins with a row of its own; rows are filled up with points that are FAR. Every class must have points.
    """

    shape: tuple[int, ...]  # [dim] ones, see `codebook.Codebook`
    book: NDArray[np.float32]  # [n_points * dim]
    shifts: NDArray[np.float32]  # [n_tables], what may be added to all values
    classes: NDArray[np.float32]  # tile [n_class_rows * dim / 2, LANES], the values of each class
    no_class: NDArray[np.float32]  # tile [n_class_rows, LANES], FAR beyond the last class, else 0
    first: NDArray[np.int64]  # [2, n_classes + 1], rows where the points of a class start
    number: NDArray[np.int32]  # [2, n_rows * LANES], of each point in the codebook
    values: NDArray[np.float32]  # tile [2 * n_rows * dim, LANES]
    no_point: NDArray[np.float32]  # tile [2 * n_rows, LANES], FAR where there is none, else 0
    leading: NDArray[np.int64]  # [n_groups], the half with more weight; written, as what follows
    squares: NDArray[np.float32]  # tile [n_tables * n_groups * n_rows, LANES], sum w g^2, its order
    class_squares: NDArray[np.float32]  # tile [n_tables * n_groups * 2 * n_class_rows, LANES], leading half, other
    # of the group at hand, written
    class_losses: NDArray[np.float32]  # tile [2 * n_class_rows, LANES]: -2 sum w x g, leading half, other half
    row: NDArray[np.int64]  # [n_rows], numbers of the rows that are chosen
    chosen: NDArray[np.float32]  # tile [n_rows, LANES], their squares


@leaf
def weigh_tile(tile, n_rows, weight, start, shifts, filler, squares, at, step):
    """squares[at + table * step + row]: sum w (g + shift)^2 of n_rows * dim rows from `start` on; weight f32 [dim]."""
    dim = weight.size
    all_weights = np.float32(0)
    for i in range(dim):
        all_weights += weight[i]
    for row in range(n_rows):
        total = total_square = broadcast(0)
        for i in range(dim):
            g = load(tile, (start + row) * dim + i)
            total += g * weight[i]
            total_square = multiply_add(g * weight[i], g, total_square)
        for table in range(shifts.size):
            shift = shifts[table]
            square = (total * TWO + all_weights * shift) * shift + total_square
            store(squares, at + table * step + row, square + load(filler, start + row))


@helper
def weigh_halves(weight, points):
    """Write leading, squares and class_squares, for the groups of weight f32 [n_groups * dim]."""
    dim, half = len(points.shape), len(points.shape) // 2
    n_groups, n_rows, n_class_rows = points.leading.size, points.no_point.shape[0] // 2, points.no_class.shape[0]
    for group in range(n_groups):
        w = weight[dim * group : dim * (group + 1)]
        leading = 1 if w[half:].sum() > w[:half].sum() else 0
        points.leading[group] = leading
        start, step = leading * n_rows, n_groups * n_rows
        weigh_tile(
            points.values, n_rows, w, start, points.shifts, points.no_point, points.squares, group * n_rows, step
        )
        for which in range(2):
            part = leading if which == 0 else 1 - leading
            part_w, at = w[half * part : half * (part + 1)], (2 * group + which) * n_class_rows
            step = 2 * n_groups * n_class_rows
            weigh_tile(
                points.classes, n_class_rows, part_w, 0, points.shifts, points.no_class, points.class_squares, at, step
            )


@leaf
def find_class_losses(wx, at, leading, points):
    """-2 sum w x g of every class without shift, leading half first."""
    half, losses = len(points.shape) // 2, points.class_losses
    n_rows = points.no_class.shape[0]
    for which in range(2):
        start = at + half * (leading if which == 0 else 1 - leading)
        for row in range(n_rows):
            total = broadcast(0)
            for i in range(half):
                total = multiply_add(load(points.classes, row * half + i), number_at(wx, start + i), total)
            store(losses, which * n_rows + row, total * -TWO)


@leaf
def best_class(scale, first, points):
    """The class of the leading half that is best at a scale, and the least value of the other half."""
    n_rows, losses = points.no_class.shape[0], points.class_losses
    least = rest = broadcast(LARGEST)
    where = int_lanes(broadcast(0))
    for r in range(n_rows):
        v = multiply_add(load(points.class_squares, first + r), scale, load(losses, r))
        where, least = select(v < least, r, where), smaller(v, least)
        v = multiply_add(load(points.class_squares, first + n_rows + r), scale, load(losses, n_rows + r))
        rest = smaller(v, rest)
    return first_smallest(least, where), smallest_lane(rest)


@leaf
def load_class(kind, wx, at, leading, first, points, losses, n):
    """Add the rows of a class to those that are chosen, as the n-th and so on; gives the new number."""
    dim, n_rows = len(points.shape), points.no_point.shape[0] // 2
    place = leading * (points.first.size // 2) + kind
    for row in range(number_at(points.first, place), number_at(points.first, place + 1)):
        total = broadcast(0)
        for i in range(dim):
            g = load(points.values, (leading * n_rows + row) * dim + i)
            total = multiply_add(g, number_at(wx, at + i), total)
        store(losses, n, total * -TWO)
        store(points.chosen, n, load(points.squares, first + row))
        points.row[n] = row
        n += 1
    return n


@leaf
def best_chosen(scale, n, losses, squares):
    """Loss and square of the best of the first n rows."""
    least, where = broadcast(LARGEST), int_lanes(broadcast(0))
    for k in range(n):
        v = multiply_add(load(squares, k), scale, load(losses, k))
        where, least = select(v < least, k, where), smaller(v, least)
    place = first_smallest(least, where)
    return number_at(losses, place), number_at(squares, place)


@leaf
def choose_rows(low, high, wx, group, table, points, losses):
    """Rows with all points that may be best at a scale from `low` to `high`; gives how many there are.

    Written: their numbers, points.row; their squares, points.chosen; their losses, a tile.
    """
    leading, n_class_rows = points.leading[group], points.no_class.shape[0]
    at, number = len(points.shape) * group, table * points.leading.size + group
    first, first_class = number * (points.no_point.shape[0] // 2), 2 * number * n_class_rows
    low_class, low_rest = best_class(low, first_class, points)
    high_class, high_rest = best_class(high, first_class, points)
    n = load_class(low_class, wx, at, leading, first, points, losses, 0)
    if high_class != low_class:
        n = load_class(high_class, wx, at, leading, first, points, losses, n)
    loss, square = best_chosen(low, n, losses, points.chosen)
    other_loss, other_square = best_chosen(high, n, losses, points.chosen)
    middle = (other_loss - loss) / (square - other_square) if square > other_square else low  # where they are equal
    middle = min(max(middle, low), high)
    slope = (high_rest - low_rest) / (high - low)
    low_room = allowed(square * low + loss) - low_rest
    high_room = allowed(other_square * high + other_loss) - high_rest
    middle_room = allowed(square * middle + loss) - (low_rest + slope * (middle - low))
    for r in range(n_class_rows):
        squares, class_losses = load(points.class_squares, first_class + r), load(points.class_losses, r)
        may = multiply_add(squares, low, class_losses) < low_room
        may |= multiply_add(squares, middle, class_losses) < middle_room
        may |= multiply_add(squares, high, class_losses) < high_room
        bits = mask_bits(may)
        while bits:
            kind = r * LANES + lowest_bit(bits)
            if kind != low_class and kind != high_class:
                n = load_class(kind, wx, at, leading, first, points, losses, n)
            bits &= bits - 1
    return n


@leaf
def allowed(value):
    return value + SLACK * abs(value)


@leaf
def name_points(points, group, shift_loss, lines, start, end):
    """Turn places among the chosen rows into numbers of points, in lines start .. end - 1; add what the shift costs."""
    first = points.leading[group] * (points.no_point.shape[0] // 2)
    for k in range(start, end):
        place = lines.point[k]
        lines.point[k] = number_at(points.number, (first + points.row[place // LANES]) * LANES + place % LANES)
        lines.losses[k] += shift_loss

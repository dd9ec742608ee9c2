"""Rounding groups of columns of many rows one after the other, each seeing the errors of the others: to points.

A group of `dim` columns takes one of the points, times the row's scale. The loss of a group, given those before, is

    sum over its columns j of  weight_j (value_j - wanted_j)^2

with wanted_j what the columns before it leave to be made up. So each column's sign is the one that suits it, given
those before it in the group, and all points are tried. They are in lexicographic order: what two successive points
have in common is not computed again.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .jit import helper, kernel
from .lanes import (
    LANES,
    any_lane,
    broadcast,
    int_lanes,
    load,
    magnitude,
    multiply_add,
    number_at,
    select,
    smaller,
    store,
)

ZERO, ONE, TWO, FOUR = np.array([0, 1, 2, 4], np.float32)
PER_SIGNS = 8  # columns whose signs may have to be even together


class Slab(NamedTuple):
    """Columns of a super-block in the order in which they are rounded, group by group; a row per lane.

    Errors are value - target; those that are there already (of an earlier pass) count until the group is rounded anew.
    """

    targets: NDArray[np.float32]  # [n_tiles * n_cols, LANES]
    shifts: NDArray[np.float32]  # of the same shape, what the errors of other blocks call for
    couplings: NDArray[np.float32]  # [n_cols, n_cols], of the column to be rounded (first) with each other one;
    # 0 with itself and with those of its group (of all that share their signs) that come after it
    weights: NDArray[np.float32]  # [n_cols], of squared errors that the columns before have left
    scales: NDArray[np.float32]  # [n_tiles * n_groups, LANES]
    groups: NDArray[np.int64]  # [n_groups], where in the block each group is
    codes: NDArray[np.int32]  # [n_tiles * n_cols, LANES], written: twice the place of the group's point in the table,
    # and 1 for a minus sign
    errors: NDArray[np.float32]  # [n_tiles * n_cols, LANES], read and written


class Points(NamedTuple):
    """A table in lexicographic order."""

    values: NDArray[np.float32]  # [n_points, dim]
    numbers: NDArray[np.int32]  # [n_points], in the order of the type
    changed: NDArray[np.int32]  # [n_points], the first coordinate in which it differs from the one before
    after: NDArray[np.int32]  # [n_points, dim], the next that differs in that coordinate or one before it
    signed: bool  # values have signs beside the point
    even: bool  # of 8 values an even number are negative


class Path(NamedTuple):
    """A group's values and what they cost up to each coordinate, in units of the scale."""

    own: NDArray[np.float32]  # [dim * dim], the couplings of its columns with each other, times -1
    weights: NDArray[np.float32]  # [dim]
    wanted: NDArray[np.float32]  # [dim, LANES], if the group's values before are 0
    values: NDArray[np.float32]  # [dim, LANES]
    costs: NDArray[np.float32]  # [dim + 1, LANES]
    parity: NDArray[np.float32]  # [dim + 1, LANES], 1 or -1: an even or an odd number of minus signs
    change: NDArray[np.float32]  # [dim + 1, LANES], what the cheapest change of a sign costs


def sorted_points(values: NDArray[np.float32], signed: bool, even: bool) -> Points:
    """Prepare points f32 [n_points, dim]."""
    numbers = np.lexsort(values.T[::-1])
    values = np.ascontiguousarray(values[numbers])
    differs = values[1:] != values[:-1]
    changed = np.append(0, np.where(differs.any(axis=1), differs.argmax(axis=1), values.shape[1] - 1))
    after = np.empty(values.shape, np.int32)
    after[-1] = len(values)
    for p in range(len(values) - 2, -1, -1):
        after[p] = np.where(np.arange(values.shape[1]) < changed[p + 1], after[p + 1], p + 1)
    return Points(values, numbers.astype(np.int32), changed.astype(np.int32), after, signed, even)


@helper
def extend(path, j, point, points):
    """Give column j of the group the point's value, with the sign that suits what is wanted of it."""
    x = load(path.wanted, j)
    for i in range(j):
        x = multiply_add(load(path.values, i), number_at(path.own, len(path.weights) * j + i), x)
    weight = number_at(path.weights, j)
    negative = x < (ZERO if points.signed else np.float32(-np.inf))
    value = select(negative, -point, point)
    store(path.values, j, value)
    store(path.costs, j + 1, multiply_add(weight * (x - value), x - value, load(path.costs, j)))
    if points.even:
        store(path.parity, j + 1, select(negative, -load(path.parity, j), load(path.parity, j)))
        change = FOUR * weight * magnitude(x * value)
        store(path.change, j + 1, smaller(load(path.change, j), change))


@helper
def best_point(path, points):
    """The place in the table of the point that costs least, as Lanes of floats, and its cost."""
    dim = len(path.wanted)
    least = broadcast(np.inf)
    place = broadcast(0)
    p = 0
    while p < len(points.values):
        j = np.int64(points.changed[p])
        costly = False
        while j < dim and not costly:
            extend(path, j, broadcast(number_at(points.values, dim * p + j)), points)
            costly = not any_lane(load(path.costs, j + 1) < least)
            j += 1
        if not costly:
            cost = load(path.costs, dim)
            if points.even:
                cost = select(load(path.parity, dim) < ZERO, cost + load(path.change, dim), cost)
            better = cost < least
            least = select(better, cost, least)
            place = select(better, p, place)
        p = np.int64(points.after[p, j - 1])
    return place, least


@helper
def take_point(path, place, points):
    """Give the group's columns the values of the point at `place`; where their signs must be even, make them so."""
    dim = len(path.wanted)
    places, chosen = np.empty((1, LANES), np.float32), np.empty((dim, LANES), np.float32)
    store(places, 0, place)
    for lane in range(LANES):
        for j in range(dim):
            chosen[j, lane] = points.values[np.int64(places[0, lane]), j]
    for j in range(dim):
        extend(path, j, load(chosen, j), points)
    if points.even:
        odd = load(path.parity, dim) < ZERO
        for j in range(dim):
            here = odd & (load(path.change, j + 1) == load(path.change, dim))
            store(path.values, j, select(here, -load(path.values, j), load(path.values, j)))
            odd = odd & ~here


@helper
def round_group(slab, tile, group, sign, points, path):
    """Take a group to the best point, and if even, to one whose signs' product is `sign`; what it costs."""
    n_cols, dim = len(slab.weights), len(path.wanted)
    column = group * dim
    first = tile * n_cols + column
    scale = load(slab.scales, tile * slab.groups.size + slab.groups[group])
    inverse = select(scale == ZERO, ZERO, ONE / scale)
    store(path.parity, 0, broadcast(sign))
    for j in range(dim):
        path.weights[j] = slab.weights[column + j]
        for i in range(dim):
            path.own[dim * j + i] = -slab.couplings[column + j, column + i]
        store(slab.errors, first + j, -load(slab.targets, first + j))  # as if the group's values were 0
    for j in range(dim):
        x = load(slab.targets, first + j) + load(slab.shifts, first + j)
        for other in range(n_cols):
            x = multiply_add(load(slab.errors, tile * n_cols + other), -slab.couplings[column + j, other], x)
        store(path.wanted, j, x * inverse)
    place, cost = best_point(path, points)
    take_point(path, place, points)
    for j in range(dim):
        value = load(path.values, j)
        code = int_lanes(place) + int_lanes(place) + int_lanes(select(value < ZERO, ONE, ZERO))
        store(slab.codes, first + j, code)
        store(slab.errors, first + j, multiply_add(value, scale, -load(slab.targets, first + j)))
    return cost


@kernel
def round_groups(slab, points):
    """Take each group of columns to the point that is nearest to what is left to be made up, see above.

    Two groups of 4 that share a word of signs can both have an even number of minus signs, or both an odd one: both
    ways are tried.
    """
    n_cols, dim = len(slab.weights), points.values.shape[1]
    word = PER_SIGNS if points.even else dim  # columns that are settled together
    path = Path(
        np.empty(dim * dim, np.float32),
        np.empty(dim, np.float32),
        np.empty((dim, LANES), np.float32),
        np.empty((dim, LANES), np.float32),
        np.zeros((dim + 1, LANES), np.float32),
        np.ones((dim + 1, LANES), np.float32),
        np.full((dim + 1, LANES), np.inf, np.float32),
    )
    best_codes, best_errors = np.zeros((word, LANES), np.int32), np.zeros((word, LANES), np.float32)
    for first in range(0, len(slab.targets), word):
        tile, column = first // n_cols, first % n_cols
        least = broadcast(np.inf)
        for way in range(word // dim):
            cost = broadcast(0)
            for group in range(column // dim, (column + word) // dim):
                cost += round_group(slab, tile, group, ONE - TWO * np.float32(way), points, path)
            better = cost < least
            least = select(better, cost, least)
            for j in range(word):
                store(best_codes, j, select(better, load(slab.codes, first + j), load(best_codes, j)))
                store(best_errors, j, select(better, load(slab.errors, first + j), load(best_errors, j)))
        for j in range(word):
            store(slab.codes, first + j, load(best_codes, j))
            store(slab.errors, first + j, load(best_errors, j))

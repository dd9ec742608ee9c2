"""Scales and codes of blocks whose values are coded in pairs: the nearest of a few points in the plane, exactly.

Both coordinates of the points come from one short axis of values, so distances are sums of two looked-up parts.
Tiles as in `tabulated`; values 2 k and 2 k + 1 make a pair.
"""

import numpy as np

from .jit import helper, kernel
from .lanes import broadcast, int_lanes, load, select, store
from .scales import first_largest
from .tabulated import NOTICEABLE, ONE, TWO, ZERO


@helper
def nearest_point(x, weight, i, inverse, axis, places, costs):
    """The point nearest to the pair of values from i on, times `inverse`: its number and its coordinates.

    axis f32 [n_axis], places i32 [n_points, 2]; costs is room f32 [2 * n_axis, LANES]
    """
    n_axis = len(axis)
    for k in range(n_axis):
        for side in range(2):
            off = load(x, i + side) * inverse - axis[k]
            store(costs, side * n_axis + k, load(weight, i + side) * off * off)
    least = broadcast(np.inf)
    point = q1 = q2 = broadcast(0)
    for p in range(len(places)):
        cost = load(costs, places[p, 0]) + load(costs, n_axis + places[p, 1])
        nearer = cost < least
        least = select(nearer, cost, least)
        point = select(nearer, p, point)
        q1 = select(nearer, axis[places[p, 0]], q1)
        q2 = select(nearer, axis[places[p, 1]], q2)
    return point, q1, q2


@helper
def point_sums(x, weight, first, size, inverse, axis, places, costs):
    """The weighted sums of q x and q^2, q the coordinates of the points nearest to x * inverse."""
    sum_qx = sum_q2 = broadcast(0)
    for i in range(first, first + size, 2):
        _, q1, q2 = nearest_point(x, weight, i, inverse, axis, places, costs)
        wq1, wq2 = load(weight, i) * q1, load(weight, i + 1) * q2
        sum_qx += wq1 * load(x, i) + wq2 * load(x, i + 1)
        sum_q2 += wq1 * q1 + wq2 * q2
    return sum_qx, sum_q2


@kernel
def best_pair_scales(x, weight, axis, places, targets, scales):
    """Of all trial scales that whose nearest points fit best, refitted: max (sum w q x)^2 / sum w q^2.

    targets:  f32 [n_trials], what the value of largest magnitude is scaled to
    scales:   f32 [n_subs, LANES], written; 0 where nothing fits
    """
    size = len(x) // len(scales)
    costs = np.empty((2 * len(axis), x.shape[1]), np.float32)
    for sub in range(len(scales)):
        largest = first_largest(x, size * sub, size)
        scale = best = broadcast(0)
        for target in targets:
            sum_qx, sum_q2 = point_sums(x, weight, size * sub, size, target / largest, axis, places, costs)
            better = sum_qx * sum_qx > best * sum_q2 * NOTICEABLE
            scale = select(better, sum_qx / sum_q2, scale)
            best = select(better, scale * sum_qx, best)
        store(scales, sub, scale)


@kernel
def encode_pairs(x, weight, axis, places, d, lowest, highest, levels, codes, sums):
    """For a given d the best of three neighbouring levels, its nearest points, and the sums to refit d.

    d:        f32 [n_subs, LANES]
    lowest, highest:  bounds of the levels
    levels:   f32 [n_subs, LANES]: tried are this level (first) and those on both sides; replaced by the best
    codes:    u8 [n_subs * size / 2, LANES], written
    sums:     f32 [2, n_subs, LANES], written: sum w x q and sum w q^2, q the level times the coordinate
    """
    size = len(x) // len(d)
    costs = np.empty((2 * len(axis), x.shape[1]), np.float32)
    for sub in range(len(d)):
        first = size * sub
        start = load(levels, sub)
        best = broadcast(-np.inf)
        level = best_qx = best_q2 = broadcast(0)
        for step in (0, -1, 1):
            trial = start + np.float32(step)
            scale = load(d, sub) * trial
            inverse = select(scale == ZERO, ZERO, ONE / scale)
            sum_qx, sum_q2 = point_sums(x, weight, first, size, inverse, axis, places, costs)
            gain = scale * (TWO * sum_qx - scale * sum_q2)
            better = (gain > best) & (trial >= lowest) & (trial <= highest)
            best = select(better, gain, best)
            level = select(better, trial, level)
            best_qx = select(better, trial * sum_qx, best_qx)
            best_q2 = select(better, trial * trial * sum_q2, best_q2)
        scale = load(d, sub) * level
        inverse = select(scale == ZERO, ZERO, ONE / scale)
        for i in range(first, first + size, 2):
            point, _, _ = nearest_point(x, weight, i, inverse, axis, places, costs)
            store(codes, i // 2, int_lanes(point))
        store(levels, sub, level)
        store(sums[0], sub, best_qx)
        store(sums[1], sub, best_q2)

"""The search for the least weighted error with values d * level * entry: fits of sub-blocks, and levels for a given d.

Tiles as in `tabulated`, a sub-block per lane. A "curve" is a table and a sign of the scale: curve c has table c // 2,
and negative scales if c is odd. What an entry is depends on the book: see `sums_of`.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from .jit import helper, kernel
from .lanes import broadcast, float_lanes, int_lanes, larger, load, magnitude, select, smaller, store
from .pairs import point_sums
from .parity import word_sums
from .scales import first_largest
from .tabulated import HALF, ONE, TWO, ZERO, entry_sums

F32 = NDArray[np.float32]
REFITS = 2  # of each curve's best scale: codes anew for the scale that fits them


class Entries(NamedTuple):
    """One code per value; f32 [n_tables], and f32 [n_tables, n_codes - 1] twice (see `tabulated.nearest_entry`)."""

    lowest: F32
    middles: F32
    steps: F32


class Pairs(NamedTuple):
    """One code for two values (see `pairs.nearest_point`); costs is room, f32 [2 * n_axis, LANES]."""

    axis: F32
    places: NDArray[np.int32]
    costs: F32


class Words(NamedTuple):
    """Four values share a word of even parity (see `parity.best_word`); word is room, f32 [8, LANES]."""

    even: tuple[F32, F32, F32]
    odd: tuple[F32, F32, F32]
    word: F32


def sums_of(book, x, weight, first, size, inverse, table):
    """The weighted sums of q x and q^2 over `size` values, q the best entries of the table for x * inverse."""
    raise NotImplementedError("compiled code only")


@overload(sums_of)
def _sums_of(book, x, weight, first, size, inverse, table):
    kind = book.instance_class
    if kind is Pairs:
        return lambda book, x, weight, first, size, inverse, table: point_sums(
            x, weight, first, size, inverse, book.axis, book.places, book.costs
        )
    if kind is Words:
        return lambda book, x, weight, first, size, inverse, table: word_sums(
            x, weight, first, size, inverse, table, book.even, book.odd, book.word
        )
    return lambda book, x, weight, first, size, inverse, table: entry_sums(
        x, weight, first, size, inverse, book.lowest[table], book.middles, book.steps, table
    )


@kernel
def fit_curves(x, weight, book, targets, fits):
    """For each curve the scale that fits best of those tried: max (sum w q x)^2 / sum w q^2.

    targets:  f32 [n_trials], what the value of largest magnitude is scaled to
    fits:     f32 [3, n_curves, n_subs, LANES], written: scale, sum w q x, sum w q^2; all 0 where nothing fits
    """
    n_subs = fits.shape[2]
    size = len(x) // n_subs
    for sub in range(n_subs):
        largest = first_largest(x, size * sub, size)
        for curve in range(fits.shape[1]):
            sign = np.float32(1 - 2 * (curve % 2)) / largest
            best = scale = best_qx = best_q2 = broadcast(0)
            for t in range(len(targets) + REFITS):
                inverse = sign * targets[t] if t < len(targets) else ONE / scale
                qx, q2 = sums_of(book, x, weight, size * sub, size, inverse, curve // 2)
                fit = qx / q2
                better = fit * qx > best
                best = select(better, fit * qx, best)
                scale = select(better, fit, scale)
                best_qx = select(better, qx, best_qx)
                best_q2 = select(better, q2, best_q2)
            store(fits[0, curve], sub, scale)
            store(fits[1, curve], sub, best_qx)
            store(fits[2, curve], sub, best_q2)


@kernel
def promising_d(fits, levels, parts, starts):
    """The d with which units lose least, if every sub-block kept the codes of one of its fits: a guess from above.

    fits:    f32 [3, n_curves, n_tiles * n_subs, LANES], those of `fit_curves`, but a unit per lane
    levels:  (lowest, step, number - 1), f32 each
    parts:   f32 [n_trials], what the largest scale of a unit is divided by
    starts:  f32 [n_starts, n_tiles, LANES], written: the best d, the second best...
    """
    n_starts, n_tiles, n_lanes = starts.shape
    n_subs = fits.shape[2] // n_tiles
    gains = np.empty((n_starts, n_lanes), np.float32)
    for tile in range(n_tiles):
        first = tile * n_subs
        top = largest_scale(fits, first, n_subs)
        for k in range(n_starts):
            store(gains, k, broadcast(-ONE))
            store(starts[k], tile, broadcast(0))
        for part in parts:
            d = top / part
            total = broadcast(0)
            for sub in range(first, first + n_subs):
                total += best_gain(fits, sub, d, levels)
            for k in range(n_starts):  # into its place, the others one down
                gain, other = load(gains, k), load(starts[k], tile)
                better = total > gain
                store(gains, k, select(better, total, gain))
                store(starts[k], tile, select(better, d, other))
                total, d = select(better, gain, total), select(better, other, d)


@helper
def largest_scale(fits, first, n_subs):
    """Of the sub-blocks' best scales that of largest magnitude."""
    top = broadcast(0)
    for sub in range(first, first + n_subs):
        best = scale = broadcast(0)
        for curve in range(fits.shape[1]):
            gain = load(fits[0, curve], sub) * load(fits[1, curve], sub)
            scale = select(gain > best, load(fits[0, curve], sub), scale)
            best = larger(gain, best)
        top = select(magnitude(scale) > magnitude(top), scale, top)
    return top


@helper
def best_gain(fits, sub, d, levels):
    """The largest gain of a sub-block with the codes of its fits and the levels nearest to them."""
    lowest, step, top = levels
    best = broadcast(0)
    for curve in range(fits.shape[1]):
        index = whole_index((load(fits[0, curve], sub) / d - lowest) / step + HALF, top)
        scale = d * (index * step + lowest)
        best = larger(scale * (TWO * load(fits[1, curve], sub) - scale * load(fits[2, curve], sub)), best)
    return best


@helper
def whole_index(place, top):
    """The whole number below, between 0 and top; 0 for NaN."""
    return float_lanes(int_lanes(smaller(larger(place, ZERO), top)))


@kernel
def best_levels_near(x, weight, book, fits, d, levels, reach, chosen):
    """For given d the level and table that leave the smallest error, among levels near those of the curves' fits.

    d:       f32 [n_subs, LANES]
    levels:  (lowest, step, number - 1), f32 each
    reach:   how many levels are tried on either side of the two that a fit lies between
    chosen:  f32 [5, n_subs, LANES], written: index of the level, table, gain (how much the error is below sum w x^2),
             sums w q x and w q^2, q the level times the entry
    """
    lowest, step, top = levels
    n_subs = len(d)
    size = len(x) // n_subs
    for sub in range(n_subs):
        d_here = load(d, sub)
        best = broadcast(-np.inf)
        best_index = best_table = best_qx = best_q2 = broadcast(0)
        for curve in range(fits.shape[1]):
            below = whole_index((load(fits[0, curve], sub) / d_here - lowest) / step, top)
            for k in range(-reach, 2 + reach):
                index = smaller(larger(below + np.float32(k), ZERO), top)
                level = index * step + lowest
                scale = d_here * level
                inverse = select(scale == ZERO, ZERO, ONE / scale)
                qx, q2 = sums_of(book, x, weight, size * sub, size, inverse, curve // 2)
                gain = scale * (TWO * qx - scale * q2)
                better = gain > best
                best = select(better, gain, best)
                best_index = select(better, index, best_index)
                best_table = select(better, np.float32(curve // 2), best_table)
                best_qx = select(better, level * qx, best_qx)
                best_q2 = select(better, level * level * q2, best_q2)
        store(chosen[0], sub, best_index)
        store(chosen[1], sub, best_table)
        store(chosen[2], sub, best)
        store(chosen[3], sub, best_qx)
        store(chosen[4], sub, best_q2)

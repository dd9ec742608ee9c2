"""Exact search of one scale: all distinct roundings, one after the other.

For integers q the best scale is sum(w q x) / sum(w q^2), and leaves sum(w x^2) - sum(w q x)^2 / sum(w q^2). As 1 / s
grows from zero, the roundings of x / s change one value at a time, where |x| / s passes q + 1/2: so all of them can be
visited by walking these breakpoints in order, and a step costs two additions (the cumulative search of llama.cpp's pull
request 12557). Tiles as in `scales`: one block in each lane, which walks at its own pace.

Two shortcuts lose nothing. Roundings whose largest integer is below n / 2 are not visited: twice these integers, with
half the scale, give the same values and belong to a finer rounding. And a lane stops when the values beyond the range
of integers alone cost more than the best rounding so far: they only get further from it.
"""

import numpy as np

from .jit import helper, kernel
from .lanes import (
    LANES,
    any_lane,
    bit_lanes,
    broadcast,
    float_lanes,
    int_lanes,
    lanes_of_bits,
    larger,
    load,
    magnitude,
    select,
    smaller,
    store,
)
from .rounding import nearest
from .scales import signed_code_of
from .tiles import load_tile, round_to_f16, store_tile

HALF = np.float32(0.5)
FAR, NEVER = np.array([1e36, np.nan], np.float32)  # a breakpoint that far never comes; NEVER equals none
STEPS_PER_CHECK = 8  # breakpoints between two looks at whether all lanes have stopped
MARGIN = np.float32(1 - 2.0**-16)  # sums are rounded: what is less than this much better may be worse
ROUNDED_UP = np.float32(1 + 2.0**-18)
LOWEST_EXPONENT, HIGHEST_EXPONENT = 1, 253  # of powers of two whose inverse is one, too


@helper
def normalize(tile):
    """Bring the largest magnitude of each lane to 1 .. 2, by a power of two that float32 holds; returns the power."""
    largest = broadcast(0)
    for i in range(tile.shape[0]):
        largest = larger(magnitude(load(tile, i)), largest)
    exponent = bit_lanes(largest) >> 23
    exponent = select(exponent < LOWEST_EXPONENT, LOWEST_EXPONENT, exponent)
    exponent = select(exponent > HIGHEST_EXPONENT, HIGHEST_EXPONENT, exponent)
    factor = lanes_of_bits((254 - exponent) << 23)
    for i in range(tile.shape[0]):
        store(tile, i, load(tile, i) * factor)
    return lanes_of_bits(exponent << 23)


@helper
def begin_walk(x, weight, first, n, walk):
    """Fill the scratch; sums of w q |x| and w q^2 of the first rounding, and sum of w x^2.

    walk f32 [5, size, LANES]: next breakpoints; 1 / |x|, by which they grow; w |x|; the same where x is positive, else
    0; and what lies between the breakpoints of n - 1 and n.
    """
    breakpoints, inverse, wx, positive_wx, top = walk
    largest = sum_x2 = broadcast(0)
    for i in range(breakpoints.shape[0]):
        v, w = load(x, first + i), load(weight, first + i)
        wv = w * magnitude(v)
        store(inverse, i, select(wv > 0, 1 / magnitude(v), FAR))
        store(wx, i, wv)
        store(positive_wx, i, select(v > 0, wv, 0))
        largest = select(wv > 0, larger(magnitude(v), largest), largest)
        sum_x2 += wv * magnitude(v)
    start = (np.float32(n) * HALF - HALF) / largest
    sum_lx = sum_l2 = broadcast(0)
    for i in range(breakpoints.shape[0]):
        v = magnitude(load(x, first + i))
        q = nearest(smaller(v * start, n - 1))
        store(breakpoints, i, (q + HALF) * load(inverse, i))
        store(top, i, np.float32(n - 1) * load(inverse, i))
        sum_lx += load(wx, i) * q
        sum_l2 += load(weight, first + i) * q * q
    return sum_lx, sum_l2, sum_x2


@helper
def pass_breakpoint(at, walk):
    """Sums of w |x|: of the values with a breakpoint at `at`; of those that get to n; of the positive ones of these.

    And the breakpoint that comes next.
    """
    breakpoints, inverse, wx, positive_wx, top = walk
    passed = topmost = positive_topmost = broadcast(0)
    following = broadcast(FAR)
    for i in range(breakpoints.shape[0]):
        here = load(breakpoints, i)
        on = here == at
        last = on & (here > load(top, i))
        passed += select(on, load(wx, i), 0)
        topmost += select(last, load(wx, i), 0)
        positive_topmost += select(last, load(positive_wx, i), 0)
        here = select(on, here + load(inverse, i), here)
        here = select(last, FAR, here)
        store(breakpoints, i, here)
        following = smaller(here, following)
    return passed, topmost, positive_topmost, following


@helper
def cost_beyond(x, weight, first, size, reach):
    """What the values larger than `reach` cost at least: the weighted squares of what is missing."""
    cost = broadcast(0)
    for i in range(first, first + size):
        missing = larger(magnitude(load(x, i)) - reach, 0)
        cost += load(weight, i) * missing * missing
    return cost


@helper
def cumulative_search(x, weight, first, n, walk):
    """The best scale, of either sign, for integers -n .. n - 1; 0 where all is zero or nothing has weight.

    x, weight f32: the rows from `first` on, normalized; walk f32 [5, size, LANES]: scratch. With a negative scale, the
    positive values may get to n instead of the negative ones; up to n - 1 there is no difference, so one walk serves
    both. An integer that grows from q to q + 1 at the breakpoint b = (q + 1/2) / |x| adds w |x| to sum(w q x) and
    w (2 q + 1) = 2 b w |x| to sum(w q^2).
    """
    size = walk.shape[1]
    lx, l2, x2 = begin_walk(x, weight, first, n, walk)
    negative_lx, negative_l2 = lx, l2
    best_lx, best_l2 = select(l2 > 0, lx, 0), select(l2 > 0, l2, 1)
    _, _, _, at = pass_breakpoint(broadcast(NEVER), walk)
    steps, going = 0, broadcast(True)
    while True:
        if steps % STEPS_PER_CHECK == 0:
            affordable = x2 * ROUNDED_UP - best_lx * best_lx / best_l2
            going &= cost_beyond(x, weight, first, size, n / at) <= affordable
            if not any_lane(going & (at < FAR)):
                break
        steps += 1
        at = select(going & (at < FAR), at, NEVER)
        passed, topmost, positive_topmost, following = pass_breakpoint(at, walk)
        twice = select(at < FAR, at + at, 0)
        more = passed - positive_topmost
        lx, l2 = lx + more, l2 + twice * more
        better = lx * lx * best_l2 > best_lx * best_lx * l2
        best_lx, best_l2 = select(better, lx, best_lx), select(better, l2, best_l2)
        more = passed - (topmost - positive_topmost)
        negative_lx, negative_l2 = negative_lx + more, negative_l2 + twice * more
        better = negative_lx * negative_lx * best_l2 > best_lx * best_lx * negative_l2
        best_lx, best_l2 = select(better, -negative_lx, best_lx), select(better, negative_l2, best_l2)
        at = following
    return best_lx / best_l2


# --- blocks of 32 values with one scale ------------------------------------------------------------------------------


@helper
def error_of(x, weight, codes, n, scale):
    """Weighted sum of the squared errors of scale * (code - n)."""
    error = broadcast(0)
    for i in range(x.shape[0]):
        diff = scale * (float_lanes(load(codes, i)) - n) - load(x, i)
        error += load(weight, i) * diff * diff
    return error


@helper
def nearest_codes(x, n, scale, codes):
    """Codes 0 .. 2 n - 1 of the integers nearest to x / scale; all n, which stands for zero, if that is zero."""
    inverse = select(scale == 0, 0, 1 / scale)
    for i in range(x.shape[0]):
        store(codes, i, int_lanes(signed_code_of(load(x, i) * inverse, n)) + n)


@kernel
def symmetric_best(blocks, importance, n, codes, d):
    """Where that lowers the weighted error, other codes and another scale: the best that a float16 scale can do.

    blocks f32 [n_blocks, 32], importance f32 [n_cols / 32, 32]; codes u8 [n_blocks, 32] and d f32 [n_tiles, LANES]
    hold a quantization that is improved, value = d * (code - n).
    """
    x, weight = np.empty((32, LANES), np.float32), np.empty((32, LANES), np.float32)
    old, new = np.empty((32, LANES), np.uint8), np.empty((32, LANES), np.uint8)
    half, walk = np.empty((1, LANES), np.int32), np.empty((5, 32, LANES), np.float32)
    for k in range(d.shape[0]):
        load_tile(blocks, k * LANES, x)
        load_tile(importance, k * LANES, weight)
        load_tile(codes, k * LANES, old)
        unit = normalize(x)
        normalize(weight)
        found = round_to_f16(cumulative_search(x, weight, 0, n, walk) * unit, half, 0)
        nearest_codes(x, n, found / unit, new)
        old_error = error_of(x, weight, old, n, round_to_f16(load(d, k), half, 0) / unit)
        better = error_of(x, weight, new, n, found / unit) < old_error * MARGIN
        for i in range(32):
            store(old, i, select(better, load(new, i), load(old, i)))
        store(d, k, select(better, found, load(d, k)))
        store_tile(old, k * LANES, codes)

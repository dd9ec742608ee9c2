"""The best scale and minimum of blocks of 32 values, value = d * code + m, where the bytes hold both as float16.

Two steps alternate, from many starts: the codes nearest to the values, and the scale and minimum that suit these codes
by weighted least squares. Each start lets the codes begin and end a little inside or outside the range of the values.
Everything is measured after rounding to float16. Tiles as in `scales`.
"""

import numpy as np

from .cumulative import MARGIN, normalize
from .jit import helper, kernel
from .lanes import LANES, broadcast, float_lanes, int_lanes, larger, load, select, smaller, store
from .scales import LARGEST, code_of, finite_or
from .tiles import load_tile, round_to_f16, store_tile

HALF = np.float32(0.5)
FEWEST, MOST = -1, 4  # half steps by which the codes of a start begin above the lowest value, or end below the highest
ROUNDS = 4


@helper
def range_of_weighted(x, weight):
    """Lowest and highest of the values that have weight."""
    lowest, highest = broadcast(LARGEST), broadcast(-LARGEST)
    for i in range(32):
        v, on = load(x, i), load(weight, i) > 0
        lowest, highest = select(on, smaller(v, lowest), lowest), select(on, larger(v, highest), highest)
    return lowest, highest


@helper
def codes_of(x, max_code, d, m, codes):
    """The codes nearest to x, as `fit` finds them."""
    inverse = select(d == 0, 0, 1 / d)
    for i in range(32):
        store(codes, i, int_lanes(code_of((load(x, i) - m) * inverse, max_code)))


@helper
def error_of(x, weight, d, m, codes):
    """Weighted squared error of codes as they are."""
    error = broadcast(0)
    for i in range(32):
        diff = d * float_lanes(load(codes, i)) + m - load(x, i)
        error += load(weight, i) * diff * diff
    return error


@helper
def fit(x, weight, max_code, d, m):
    """Weighted squared error of the nearest codes; the scale and the minimum that would suit these codes best."""
    inverse = select(d == 0, 0, 1 / d)
    error = sum_w = sum_x = sum_l = sum_l2 = sum_lx = broadcast(0)
    for i in range(32):
        v, w = load(x, i), load(weight, i)
        l = code_of((v - m) * inverse, max_code)
        diff = d * l + m - v
        wl = w * l
        error += w * diff * diff
        sum_w += w
        sum_x += w * v
        sum_l += wl
        sum_l2 += wl * l
        sum_lx += wl * v
    determinant = sum_w * sum_l2 - sum_l * sum_l
    free = determinant > 0
    new_d = select(free, (sum_w * sum_lx - sum_x * sum_l) / determinant, d)
    new_m = select(free, (sum_l2 * sum_x - sum_l * sum_lx) / determinant, (sum_x - d * sum_l) / sum_w)
    return error, new_d, new_m


@kernel
def affine_best(blocks, importance, max_code, codes, d, m):
    """Where that lowers the weighted error, other codes 0 .. max_code, scales and minimums than those given.

    blocks f32 [n_blocks, 32], importance f32 [n_cols / 32, 32]; codes u8 [n_blocks, 32], d and m f32 [n_tiles, LANES].
    """
    x, weight = np.empty((32, LANES), np.float32), np.empty((32, LANES), np.float32)
    old, new = np.empty((32, LANES), np.uint8), np.empty((32, LANES), np.uint8)
    bits = np.empty((1, LANES), np.int32)
    n_offsets = MOST - FEWEST + 1
    for k in range(d.shape[0]):
        load_tile(blocks, k * LANES, x)
        load_tile(importance, k * LANES, weight)
        load_tile(codes, k * LANES, old)
        unit = normalize(x)
        normalize(weight)
        lowest, highest = range_of_weighted(x, weight)
        trial_d, trial_m = round_to_f16(load(d, k), bits, 0) / unit, round_to_f16(load(m, k), bits, 0) / unit
        old_error = error_of(x, weight, trial_d, trial_m, old)
        best, best_d, best_m = broadcast(LARGEST), trial_d, trial_m
        for start in range(n_offsets * n_offsets + 1):
            if start > 0:
                below, above = divmod(start - 1, n_offsets)
                below, above = HALF * np.float32(below + FEWEST), HALF * np.float32(above + FEWEST)
                trial_d = (highest - lowest) / (np.float32(max_code) + below + above)
                trial_m = lowest + trial_d * below
            for _ in range(ROUNDS):
                trial_d = round_to_f16(finite_or(trial_d, best_d) * unit, bits, 0) / unit
                trial_m = round_to_f16(finite_or(trial_m, best_m) * unit, bits, 0) / unit
                error, next_d, next_m = fit(x, weight, max_code, trial_d, trial_m)
                better = error < best
                best = select(better, error, best)
                best_d, best_m = select(better, trial_d, best_d), select(better, trial_m, best_m)
                trial_d, trial_m = next_d, next_m
        codes_of(x, max_code, best_d, best_m, new)
        better = best < old_error * MARGIN
        for i in range(32):
            store(old, i, select(better, load(new, i), load(old, i)))
        store(d, k, select(better, best_d * unit, load(d, k)))
        store(m, k, select(better, best_m * unit, load(m, k)))
        store_tile(old, k * LANES, codes)

"""Scales of super-blocks, their sub-blocks' integers and the codes, chosen together: less weighted error than in turn.

A search that rounds the sub-blocks' best scales to integers, one after the other, leaves room: another integer may suit
the codes better, and another super-block scale the integers.

So two steps alternate, from several starts: a quantization that is given, and the best scales of the sub-blocks by
themselves with a few super-block scales. Each sub-block takes the best of the integers within reach, all with their own
nearest codes; then the super-block's scales are fitted to what was chosen, by weighted least squares. What is kept is
the best that was seen after rounding to float16. Tiles as in `super_blocks`.
"""

import numpy as np

from .cumulative import MARGIN, cumulative_search, normalize
from .jit import helper, kernel
from .lanes import LANES, any_lane, broadcast, float_lanes, int_lanes, larger, load, select, smaller, store
from .rounding import nearest
from .scales import LARGEST, affine_search, code_of, finite_or, positive_search, signed_code_of, symmetric_search
from .tiles import load_f16_lanes, load_tile, round_to_f16

ENOUGH = np.float32(0.999)  # a round that gains less is a lane's last


@helper
def rounded_scale(scale, unit, otherwise, bits, row):
    """A scale of normalized values as float16 will hold it; `otherwise` where it is not finite."""
    return round_to_f16(finite_or(scale, otherwise) * unit, bits, row) / unit


@helper
def integer_within(x, lowest, highest):
    return nearest(smaller(larger(x, lowest), highest))


@helper
def store_f16_where(mask, scale, bits, row):
    """The float16 bits of a scale into a row of bits i32 [n, LANES], in the lanes where `mask` is set."""
    new = np.empty((1, LANES), np.int32)
    round_to_f16(scale, new, 0)
    store(bits, row, select(mask, load(new, 0), load(bits, row)))


@helper
def nearest_integers(values, d, lowest, highest, integers):
    """The integers nearest to values / d."""
    inverse = select(d == 0, 0, 1 / d)
    for i in range(integers.shape[0]):
        store(integers, i, integer_within(load(values, i) * inverse, lowest, highest))


# --- a scale and a minimum per sub-block: value = d * scale * code - dmin * minimum ---------------------------------


@helper
def affine_fit(x, weight, first, how, scale, minimum):
    """Weighted squared error of the nearest codes, and the weighted sum of these codes."""
    inverse = select(scale == 0, 0, 1 / scale)
    error = sum_l = broadcast(0)
    for i in range(first, first + how.size):
        v, w = load(x, i) + minimum, load(weight, i)
        l = code_of(v * inverse, how.max_code)
        diff = scale * l - v
        error += w * diff * diff
        sum_l += w * l
    return error, sum_l


@helper
def choose_integers(x, weight, sub, how, reach, sums, d, dmin, scales, mins):
    """The best of the scales of a sub-block within reach, each with the minimum that suits its codes; its error."""
    first = how.size * sub
    sum_w, sum_x = load(sums[0], sub), load(sums[1], sub)
    old_scale, old_minimum = load(scales, sub), load(mins, sub)
    best = broadcast(LARGEST)
    best_scale, best_minimum = old_scale, old_minimum
    for step in range(-reach, reach + 1):
        scale = smaller(larger(old_scale + step, 0), how.max_scale)
        _, sum_l = affine_fit(x, weight, first, how, d * scale, dmin * old_minimum)
        fitting = integer_within((d * scale * sum_l - sum_x) / (dmin * sum_w), 0, how.max_scale)
        for shift in range(-1, 2):
            minimum = smaller(larger(fitting + shift, 0), how.max_scale)
            error, _ = affine_fit(x, weight, first, how, d * scale, dmin * minimum)
            better = error < best
            best = select(better, error, best)
            best_scale, best_minimum = select(better, scale, best_scale), select(better, minimum, best_minimum)
    store(scales, sub, best_scale)
    store(mins, sub, best_minimum)
    return best


@helper
def affine_least_squares(x, weight, how, d, dmin, scales, mins):
    """The d and dmin that suit the codes which those given choose."""
    ll = lm = mm = lx = mx = broadcast(0)
    for sub in range(scales.shape[0]):
        scale, minimum = load(scales, sub), load(mins, sub)
        inverse = select(d * scale == 0, 0, 1 / (d * scale))
        sum_l2 = sum_l = sum_lx = sum_w = sum_x = broadcast(0)
        for i in range(how.size * sub, how.size * (sub + 1)):
            v, w = load(x, i), load(weight, i)
            l = code_of((v + dmin * minimum) * inverse, how.max_code)
            wl = w * l
            sum_l2 += wl * l
            sum_l += wl
            sum_lx += wl * v
            sum_w += w
            sum_x += w * v
        ll += scale * scale * sum_l2
        lm += scale * minimum * sum_l
        mm += minimum * minimum * sum_w
        lx += scale * sum_lx
        mx += minimum * sum_x
    determinant = ll * mm - lm * lm
    joint = determinant > 0
    new_d = select(joint, (lx * mm - lm * mx) / determinant, lx / ll)
    new_dmin = select(joint, (lx * lm - ll * mx) / determinant, dmin)
    return select(new_d > 0, new_d, d), select(new_dmin >= 0, new_dmin, dmin)


@helper
def affine_start(x, weight, how, rounded, codes, found, integers):
    """d and dmin from the best scale and minimum of each sub-block by itself, which `found` holds then."""
    for sub in range(integers.shape[0]):
        scale, minimum, sum_w = affine_search(x, weight, how.size * sub, how.max_code, how.grid, False, rounded, codes)
        store(found[0], sub, scale)
        store(found[1], sub, minimum)
        store(found[2], sub, sum_w)
    d = positive_search(found[0], found[2], how.max_scale, integers)
    dmin = positive_search(found[1], found[2], how.max_scale, integers)
    return larger(d, 0), larger(dmin, 0)


@helper
def store_where(mask, values, tile):
    """Rows of `values` into those of `tile` of the same shape, in the lanes where `mask` is set."""
    for i in range(values.shape[0]):
        store(tile, i, select(mask, load(values, i), load(tile, i)))


@helper
def affine_codes_of(x, how, d, dmin, scales, mins, codes):
    """The codes nearest to x, as `affine_fit` finds them."""
    for sub in range(scales.shape[0]):
        scale, minimum = d * load(scales, sub), dmin * load(mins, sub)
        inverse = select(scale == 0, 0, 1 / scale)
        for i in range(how.size * sub, how.size * (sub + 1)):
            store(codes, i, int_lanes(code_of((load(x, i) + minimum) * inverse, how.max_code)))


@helper
def affine_error(x, weight, how, d, dmin, scales, mins, codes):
    """Weighted squared error of codes as they are."""
    error = broadcast(0)
    for sub in range(scales.shape[0]):
        scale, minimum = d * load(scales, sub), dmin * load(mins, sub)
        for i in range(how.size * sub, how.size * (sub + 1)):
            diff = scale * float_lanes(load(codes, i)) - minimum - load(x, i)
            error += load(weight, i) * diff * diff
    return error


@helper
def sub_block_sums(x, weight, size, sums):
    """Sums of weights, and of weighted values, of each sub-block."""
    for sub in range(sums.shape[1]):
        sum_w = sum_x = broadcast(0)
        for i in range(size * sub, size * (sub + 1)):
            sum_w += load(weight, i)
            sum_x += load(weight, i) * load(x, i)
        store(sums[0], sub, sum_w)
        store(sums[1], sub, sum_x)


@kernel
def affine_improve(blocks, importance, how, reach, rounds, factors, codes, scales, mins, d, dmin):
    """Where that lowers the weighted error, other codes, integers and scales than those of `affine_quantize`."""
    n_sub = scales.shape[1]
    x, weight = np.empty((256, LANES), np.float32), np.empty((256, LANES), np.float32)
    rounded, new_codes = np.empty((how.size, LANES), np.float32), np.empty((256, LANES), np.uint8)
    sums, found = np.empty((2, n_sub, LANES), np.float32), np.empty((3, n_sub, LANES), np.float32)
    trial, best = np.empty((2, n_sub, LANES), np.float32), np.empty((2, n_sub, LANES), np.float32)
    bits = np.empty((1, LANES), np.int32)
    for n in range(codes.shape[0]):
        load_tile(blocks, n * LANES, x)
        load_tile(importance, n * LANES, weight)
        unit = normalize(x)
        normalize(weight)
        sub_block_sums(x, weight, how.size, sums)
        trial_d, trial_dmin = load_f16_lanes(d, n) / unit, load_f16_lanes(dmin, n) / unit
        old_error = affine_error(x, weight, how, trial_d, trial_dmin, scales[n], mins[n], codes[n])
        best_error, best_d, best_dmin = broadcast(LARGEST), trial_d, trial_dmin
        store_where(broadcast(True), scales[n], trial[0])
        store_where(broadcast(True), mins[n], trial[1])
        own_d, own_dmin = affine_start(x, weight, how, rounded, new_codes, found, best[0])
        for start in range(len(factors) + 1):
            if start > 0:
                trial_d = rounded_scale(own_d * factors[start - 1, 0], unit, 0, bits, 0)
                trial_dmin = rounded_scale(own_dmin * factors[start - 1, 1], unit, 0, bits, 0)
                nearest_integers(found[0], trial_d, 0, how.max_scale, trial[0])
                nearest_integers(found[1], trial_dmin, 0, how.max_scale, trial[1])
            start_error, going = broadcast(LARGEST), broadcast(True)
            for round_ in range(rounds):
                error = broadcast(0)
                for sub in range(n_sub):
                    error += choose_integers(
                        x, weight, sub, how, reach if round_ == 0 else 1, sums, trial_d, trial_dmin, trial[0], trial[1]
                    )
                better = going & (error < best_error)
                best_error = select(better, error, best_error)
                best_d, best_dmin = select(better, trial_d, best_d), select(better, trial_dmin, best_dmin)
                store_where(better, trial[0], best[0])
                store_where(better, trial[1], best[1])
                going &= error < start_error * ENOUGH
                if not any_lane(going):
                    break
                start_error = error
                next_d, next_dmin = affine_least_squares(x, weight, how, trial_d, trial_dmin, trial[0], trial[1])
                trial_d = rounded_scale(next_d, unit, trial_d, bits, 0)
                trial_dmin = rounded_scale(next_dmin, unit, trial_dmin, bits, 0)
        affine_codes_of(x, how, best_d, best_dmin, best[0], best[1], new_codes)
        better = best_error < old_error * MARGIN
        store_where(better, best[0], scales[n])
        store_where(better, best[1], mins[n])
        store_f16_where(better, best_d * unit, d, n)
        store_f16_where(better, best_dmin * unit, dmin, n)
        for i in range(256):
            store(codes[n], i, select(better, load(new_codes, i), load(codes[n], i)))


# --- a scale per sub-block of 16, on both sides of zero: value = d * scale * (code - n) -----------------------------


@helper
def choose_scale(x, weight, sub, n, largest, reach, d, scales):
    """The best of the integers -largest .. largest - 1 within reach; its error, and what it adds to sums for d."""
    old = load(scales, sub)
    best, best_lx, best_l2 = broadcast(LARGEST), broadcast(0), broadcast(0)
    best_scale = old
    for step in range(-reach, reach + 1):
        scale = smaller(larger(old + step, -largest), largest - 1)
        inverse = select(d * scale == 0, 0, 1 / (d * scale))
        error = sum_lx = sum_l2 = broadcast(0)
        for i in range(16 * sub, 16 * (sub + 1)):
            v, w = load(x, i), load(weight, i)
            l = signed_code_of(v * inverse, n)
            diff = d * scale * l - v
            error += w * diff * diff
            sum_lx += w * l * v
            sum_l2 += w * l * l
        better = error < best
        best, best_scale = select(better, error, best), select(better, scale, best_scale)
        best_lx = select(better, sum_lx * scale, best_lx)
        best_l2 = select(better, sum_l2 * scale * scale, best_l2)
    store(scales, sub, best_scale)
    return best, best_lx, best_l2


@helper
def symmetric_start(x, weight, n, largest, codes, found, walk):
    """d from the best scale of each sub-block by itself, which `found` holds then."""
    for sub in range(16):
        scale = cumulative_search(x, weight, 16 * sub, n, walk)
        inverse = select(scale == 0, 0, 1 / scale)
        sum_l2 = broadcast(0)
        for i in range(16 * sub, 16 * (sub + 1)):
            l = signed_code_of(load(x, i) * inverse, n)
            sum_l2 += load(weight, i) * l * l
        store(found[0], sub, scale)
        store(found[1], sub, sum_l2)
    return symmetric_search(found[0], found[1], 0, 16, largest, codes)


@helper
def symmetric_codes_of(x, n, d, scales, codes):
    """The codes nearest to x, as `choose_scale` finds them."""
    for sub in range(16):
        scale = d * load(scales, sub)
        inverse = select(scale == 0, 0, 1 / scale)
        for i in range(16 * sub, 16 * (sub + 1)):
            store(codes, i, int_lanes(signed_code_of(load(x, i) * inverse, n)) + n)


@helper
def symmetric_error(x, weight, n, d, scales, codes):
    """Weighted squared error of codes as they are."""
    error = broadcast(0)
    for sub in range(16):
        scale = d * load(scales, sub)
        for i in range(16 * sub, 16 * (sub + 1)):
            diff = scale * (float_lanes(load(codes, i)) - n) - load(x, i)
            error += load(weight, i) * diff * diff
    return error


@kernel
def symmetric_improve(blocks, importance, n, largest, reach, rounds, factors, codes, scales, d):
    """Where that lowers the weighted error, other codes, integers and scales than those given; see `q3_k_quantize`.

    Codes stand for -n .. n - 1, the sub-blocks' integers are -largest .. largest - 1.
    """
    x, weight = np.empty((256, LANES), np.float32), np.empty((256, LANES), np.float32)
    new_codes, found = np.empty((256, LANES), np.uint8), np.empty((2, 16, LANES), np.float32)
    trial, best = np.empty((16, LANES), np.float32), np.empty((16, LANES), np.float32)
    bits, walk = np.empty((1, LANES), np.int32), np.empty((5, 16, LANES), np.float32)
    for tile in range(codes.shape[0]):
        load_tile(blocks, tile * LANES, x)
        load_tile(importance, tile * LANES, weight)
        unit = normalize(x)
        normalize(weight)
        trial_d = load_f16_lanes(d, tile) / unit
        old_error = symmetric_error(x, weight, n, trial_d, scales[tile], codes[tile])
        best_error, best_d = broadcast(LARGEST), trial_d
        store_where(broadcast(True), scales[tile], trial)
        own_d = symmetric_start(x, weight, n, largest, new_codes, found, walk)
        for start in range(len(factors) + 1):
            if start > 0:
                trial_d = rounded_scale(own_d * factors[start - 1], unit, 0, bits, 0)
                nearest_integers(found[0], trial_d, -largest, largest - 1, trial)
            start_error, going = broadcast(LARGEST), broadcast(True)
            for round_ in range(rounds):
                error = sum_lx = sum_l2 = broadcast(0)
                for sub in range(16):
                    sub_error, sub_lx, sub_l2 = choose_scale(
                        x, weight, sub, n, largest, reach if round_ == 0 else 1, trial_d, trial
                    )
                    error, sum_lx, sum_l2 = error + sub_error, sum_lx + sub_lx, sum_l2 + sub_l2
                better = going & (error < best_error)
                best_error, best_d = select(better, error, best_error), select(better, trial_d, best_d)
                store_where(better, trial, best)
                going &= error < start_error * ENOUGH
                if not any_lane(going):
                    break
                start_error = error
                trial_d = rounded_scale(select(sum_l2 > 0, sum_lx / sum_l2, trial_d), unit, trial_d, bits, 0)
        symmetric_codes_of(x, n, best_d, best, new_codes)
        better = best_error < old_error * MARGIN
        store_where(better, best, scales[tile])
        store_f16_where(better, best_d * unit, d, tile)
        for i in range(256):
            store(codes[tile], i, select(better, load(new_codes, i), load(codes[tile], i)))

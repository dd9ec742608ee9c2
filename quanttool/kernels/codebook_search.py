"""Search in a codebook: the scale of a sub-block and the points of its groups of 4 or 8 values, for IQ2 and IQ3.

Follows ggml-quants.c `quantize_row_iq2_xxs_impl` and its neighbours operation by operation. A try rounds all values of
a sub-block with one scale; a group whose rounded values are no point of the codebook takes the closest of a prepared
list of neighbours. LANES scales are tried side by side; each try adds in the order of the scalar code.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import LARGEST_SCALE, finite_or, shrunk_square
from .codebook import OFF_GRID, closest_neighbour, count_levels, key_bits, level_of
from .jit import helper, kernel, leaf
from .lanes import (
    LANES,
    any_lane,
    bit_lanes,
    broadcast,
    float_lanes,
    int_lanes,
    larger,
    load,
    number_at,
    select,
    smaller,
    store,
)
from .rounding import ROUNDING_MAGIC

COUNT = np.arange(LANES, dtype=np.float32)[None]  # tile with the number of each lane
LARGEST = np.float32(3.4028235e38)
ZERO, HALF, ONE, TWO, THREE = np.array([0, 0.5, 1, 2, 3], np.float32)

BATCH_VALUES = 1024  # searched at a time
FIT_TOP = np.int32(4)
FIT_SWEEPS = 5
NEIGHBOURS_PER_TRY = 3  # up to so many, tries side by side are faster than neighbours side by side
NO_KEY = np.int32(-1)  # while no try is better than nothing

REFIT_OFF_GRID = 0  # after the tries, choose again the points of groups that were rounded off the grid
REFIT_IF_OFF_GRID = 1  # of all groups, if any was off the grid
REFIT_ALWAYS = 2  # of all groups


class SearchRules(NamedTuple):
    """What differs between the types that share this search."""

    sub_size: int  # values with one scale
    sigma2_factor: np.float32  # sigma2 is this times the mean square of the block
    plain_sigma2: np.float32  # weights without importance are x^2 plus this times sigma2
    even_signs: bool  # the number of minus signs in 8 values must be even
    smallest: np.float32  # sub-blocks with no larger value are all zero
    fit_first: bool  # the tries start from a fit to integers instead of the largest value
    first_try: int  # the tries are -first_try ... first_try
    try_step: np.float32
    top: np.float32  # what the largest level stands for
    refit: int


class Values(NamedTuple):
    """The values of many blocks, one after the other."""

    x: NDArray[np.float32]  # [n] magnitudes; at most one in eight negative, where signs must be even
    weight: NDArray[np.float32]  # [n]
    root_weight: NDArray[np.float32]  # [n], the weights that choose between neighbours


@kernel
def weigh(rows, importance, rules, values, shrinks):
    """Weights of the values: importance * sqrt(sigma2 + x^2), or x^2 + plain_sigma2 * sigma2 without importance.

    rows f32 [n], n a multiple of 256; importance f32 [n_cols] or empty; values.weight and values.root_weight are
    written, values.x gets the values as they are, times the block's factor in shrinks f32 [n / 256], written too.
    """
    x, weight, root_weight = values
    for start in range(0, rows.size, 256):
        square, shrink = shrunk_square(rows[start : start + 256])
        shrinks[start // 256] = shrink
        sigma2 = rules.sigma2_factor * square
        for i in range(start, start + 256):
            x[i] = rows[i] * shrink
        if importance.size:
            column = start % importance.size
            for i in range(256):
                weight[start + i] = importance[column + i] * np.sqrt(sigma2 + x[start + i] * x[start + i])
        else:
            for i in range(start, start + 256):
                weight[i] = rules.plain_sigma2 * sigma2 + x[i] * x[i]
        for i in range(start, start + 256):
            root_weight[i] = np.sqrt(weight[i])


@kernel
def split_signs(values, even_signs, signs):
    """Make values.x magnitudes, with their signs in signs u8 [n / 8], a bit per value.

    For even signs the value that costs least keeps a wrong one where that is needed, and a byte is 7 bits.
    """
    x, weight, _ = values
    for group in range(signs.size):
        bits, flips, cheapest, least = np.int32(0), 0, 0, ZERO
        for i in range(8):
            at = 8 * group + i
            negative = x[at] < 0
            cost = weight[at] * x[at] * x[at]
            cheapest = at if i == 0 or cost < least else cheapest
            least = cost if i == 0 or cost < least else least
            bits |= np.int32(negative) << i
            flips += negative
            x[at] = -x[at] if negative else x[at]
        if even_signs:
            if flips % 2:
                bits ^= np.int32(1) << (cheapest % 8)
                x[cheapest] = -x[cheapest]
            bits &= 127
        signs[group] = np.uint8(bits)


class Batch(NamedTuple):
    """Sub-blocks under search, n of them, with g groups of values in all.

    The arrays are passed around together, and unpacked before a loop: counting references inside would take longer
    than the search.
    """

    reach: NDArray[np.float32]  # [n], what the largest level tries to reach; 0 if all is stored as zeros
    scale: NDArray[np.float32]  # [n], the best so far
    score: NDArray[np.float32]  # [n]
    inverses: NDArray[np.float32]  # tile [n, LANES]
    scales: NDArray[np.float32]  # tile [n, LANES]
    keys: NDArray[np.int32]  # tile [g, LANES], of the rounded levels
    found: NDArray[np.int32]  # tile [g, LANES], of the points chosen for them
    best_keys: NDArray[np.int32]  # [g], of the best try, NO_KEY while none is better than nothing
    best_found: NDArray[np.int32]  # [g]


@helper
def make_batch(size, dim):
    n, groups = BATCH_VALUES // size, BATCH_VALUES // dim
    return Batch(
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty((n, LANES), np.float32),
        np.empty((n, LANES), np.float32),
        np.empty((groups, LANES), np.int32),
        np.empty((groups, LANES), np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
    )


@leaf
def begin(n, x, start, fits, rules, batch):
    """Where the tries start from: the largest value, or a first fit."""
    for sub in range(n):
        first = start + rules.sub_size * sub
        largest = x[first]
        for i in range(first, first + rules.sub_size):
            largest = max(largest, x[i])
        scale, reach = largest / rules.top, largest
        if rules.fit_first:
            scale = finite_or(fits[first // rules.sub_size], scale)
            reach = scale * THREE
        batch.scale[sub] = scale
        batch.score[sub] = 0
        batch.reach[sub] = ZERO if largest < rules.smallest or reach <= 0 else reach
    batch.best_keys[:] = NO_KEY
    batch.best_found[:] = 0


@leaf
def round_values(n, x, start, size, book, batch):
    """Keys of the levels nearest to x times each of the inverse scales."""
    shape, inverses, keys = book.shape, batch.inverses, batch.keys
    dim = len(shape)
    bits, highest = key_bits(shape), count_levels(shape) - 1
    for sub in range(n):
        inverse = load(inverses, sub)
        for group in range(size // dim * sub, size // dim * (sub + 1)):
            key = int_lanes(broadcast(0))
            for i in range(dim):
                rounded = HALF * (inverse * number_at(x, start + dim * group + i) - ONE) + ROUNDING_MAGIC
                level = (bit_lanes(rounded) & 0x007FFFFF) - 0x00400000  # as `nearest_int`, which wraps where x is huge
                key |= smaller(larger(level, 0), highest) << bits * i
            store(keys, group, key)


@leaf
def closest_in_all_tries(key, shape, n_neighbours, first_of, neighbours, costs):
    """For every try the neighbour of the key with the smallest error, the first of equals, as key."""
    least, found = broadcast(LARGEST), int_lanes(broadcast(0))
    for k in range(n_neighbours[key]):
        neighbour = neighbours[first_of[key] + k]
        error = broadcast(0)
        for i in range(len(shape)):
            error += load(costs, 8 * i + level_of(neighbour, i, shape))
        better = error < least
        least = select(better, error, least)
        found = select(better, neighbour, found)
    return found


@leaf
def find_points(n, n_tries, values, start, size, book, batch, costs):
    """The point of every group and try: that of the rounded levels, or else the closest neighbour.

    Consecutive tries of a group often have the same key. Either its neighbours are gone through for all tries side by
    side, or all neighbours side by side for one try after the other. costs f32 [8 dim, LANES] is scratch.
    """
    x, _, root_weight = values
    shape, point_of_key, n_neighbours, first_of, neighbours = book
    reach, scales, keys, found = batch.reach, batch.scales, batch.keys, batch.found
    dim = len(shape)
    for sub in range(n):
        scale = load(scales, sub)
        for group in range(size // dim * sub, size // dim * (sub + 1)):
            at = start + dim * group
            store(found, group, load(keys, group))
            costs_known = False
            t = 0 if reach[sub] > 0 else n_tries
            while t < n_tries:
                key, first = keys[group, t], t
                while t < n_tries and keys[group, t] == key:
                    t += 1
                if point_of_key[key] != OFF_GRID:
                    continue
                if n_neighbours[key] > NEIGHBOURS_PER_TRY * (t - first):
                    for one in range(first, t):
                        s = scales[sub, one]
                        found[group, one] = closest_neighbour(
                            key, x, root_weight, at, s, TWO, ONE, shape, n_neighbours, first_of, neighbours
                        )
                    continue
                for i in range(0 if costs_known else dim):
                    value, weight = number_at(x, at + i), number_at(root_weight, at + i)
                    for level in range(count_levels(shape)):
                        off = scale * np.float32(2 * level + 1) - value
                        store(costs, 8 * i + level, weight * off * off)
                costs_known = True
                closest = closest_in_all_tries(key, shape, n_neighbours, first_of, neighbours, costs)
                lane = load(COUNT, 0)
                store(found, group, select((lane >= first) & (lane < t), closest, load(found, group)))


@leaf
def keep_best(n, n_tries, values, start, size, shape, sums, batch):
    """Fit every try's scale to its points, and remember the one that explains most. sums f32 [2, LANES] is scratch."""
    x, weight, _ = values
    _, scale, score, _, _, keys, found, best_keys, best_found = batch
    dim = len(shape)
    for sub in range(n):
        groups = range(size // dim * sub, size // dim * (sub + 1))
        qx_lanes = qq_lanes = broadcast(0)
        for group in groups:
            chosen = load(found, group)
            for i in range(dim):
                at = start + dim * group + i
                q = float_lanes(level_of(chosen, i, shape)) * TWO + ONE
                w = number_at(weight, at)
                qx_lanes += w * number_at(x, at) * q
                qq_lanes += w * q * q
        store(sums, 0, qx_lanes)
        store(sums, 1, qq_lanes)
        for t in range(n_tries):
            qx, qq = sums[0, t], sums[1, t]
            if qq > 0 and qx * qx > score[sub] * qq:
                scale[sub] = qx / qq
                score[sub] = scale[sub] * qx
                for group in groups:
                    best_keys[group] = keys[group, t]
                    best_found[group] = found[group, t]


@leaf
def on_grid(key, refit_rule, point_of_key):
    """Was this group rounded to a point? Where no try was any good, the reference has it so, or not, by type."""
    return refit_rule == REFIT_OFF_GRID if key == NO_KEY else point_of_key[key] != OFF_GRID


@leaf
def refit(n, values, start, rules, book, batch):
    """Where groups were off the grid, take the points of another rounding, with the best scale; fit to them."""
    x, weight, _ = values
    scale, found, best_keys, best_found = batch.scale, batch.found, batch.best_keys, batch.best_found
    point_of_key, shape = book.point_of_key, book.shape
    size, dim = rules.sub_size, len(shape)
    for sub in range(n):
        groups = range(size // dim * sub, size // dim * (sub + 1))
        all_on_grid = True
        for group in groups:
            all_on_grid &= on_grid(best_keys[group], rules.refit, point_of_key)
        if not scale[sub] > 0 or (all_on_grid and rules.refit != REFIT_ALWAYS):
            continue
        qx = qq = ZERO
        for group in groups:
            if rules.refit != REFIT_OFF_GRID or not on_grid(best_keys[group], rules.refit, point_of_key):
                best_found[group] = found[group, 0]
            for i in range(dim):
                at = start + dim * group + i
                q = np.float32(2 * level_of(best_found[group], i, shape) + 1)
                qx += weight[at] * x[at] * q
                qq += weight[at] * q * q
        scale[sub] = qx / qq if qq > 0 else scale[sub]


@leaf
def finish(n, start, rules, point_of_key, batch, shrinks, scales, points, signs):
    """Write the results; sub-blocks stored as zeros lose their signs, negative scales change theirs."""
    reach, scale, best_found = batch.reach, batch.scale, batch.best_found
    size = rules.sub_size
    groups = points.size * size // (8 * signs.size)
    all_signs = np.uint8(127 if rules.even_signs else 255)
    for sub in range(n):
        number = start // size + sub
        zero = reach[sub] == 0
        found_scale = finite_or(abs(scale[sub]), reach[sub] / rules.top) / shrinks[start // 256 + size * sub // 256]
        scales[number] = ZERO if zero else min(found_scale, LARGEST_SCALE)
        for byte in range(size // 8 * number, size // 8 * (number + 1)):
            flipped = signs[byte] ^ (all_signs if scale[sub] < 0 else np.uint8(0))
            signs[byte] = np.uint8(0) if zero else flipped
        for group in range(groups):
            found = best_found[groups * sub + group]
            points[groups * number + group] = np.int32(0) if zero else point_of_key[found]


@kernel
def search_points(values, shrinks, fits, rules, book, scales, points, signs):
    """The scale of every sub-block and the points of its groups.

    shrinks f32 [n / 256], what the blocks were multiplied with; fits f32 [n_subs], scales of a first fit to integers,
    if the rules want it; signs u8 [n / 8], where sub-blocks that are stored as zeros lose theirs; written:
    scales f32 [n_subs], 0 for such sub-blocks, and points i32 [n / dim].
    """
    x, size = values.x, rules.sub_size
    batch = make_batch(size, len(book.shape))
    sums = np.empty((2, LANES), np.float32)
    costs = np.empty((64, LANES), np.float32)
    for start in range(0, x.size, BATCH_VALUES):
        n = min(BATCH_VALUES, x.size - start) // size
        begin(n, x, start, fits, rules, batch)
        for first in range(-rules.first_try, rules.first_try + 1, LANES):
            n_tries = min(LANES, rules.first_try + 1 - first)
            for sub in range(n):
                inverse = (rules.top + (load(COUNT, 0) + np.float32(first)) * rules.try_step) / batch.reach[sub]
                store(batch.inverses, sub, inverse)
                store(batch.scales, sub, ONE / inverse)
            round_values(n, x, start, size, book, batch)
            find_points(n, n_tries, values, start, size, book, batch, costs)
            keep_best(n, n_tries, values, start, size, book.shape, sums, batch)
        for sub in range(n):
            store(batch.inverses, sub, broadcast(ONE / batch.scale[sub]))
            store(batch.scales, sub, broadcast(batch.scale[sub]))
        round_values(n, x, start, size, book, batch)
        find_points(n, 1, values, start, size, book, batch, costs)
        refit(n, values, start, rules, book, batch)
        finish(n, start, rules, book.point_of_key, batch, shrinks, scales, points, signs)


# --- a first fit to integers -----------------------------------------------------------------------------------------


@leaf
def nearest_codes(x, inverse):
    """Nearest integers up to FIT_TOP, also below zero, as INTS lanes; wraps as `nearest_int` where x is huge."""
    return (bit_lanes(inverse * x + ROUNDING_MAGIC) & 0x007FFFFF) - 0x00400000


@leaf
def fit_error(x, weight, inverse, wrap):
    """Weighted sum of squared errors with levels up to FIT_TOP."""
    scale = ONE / inverse
    error = broadcast(0)
    for i in range(x.shape[0]):
        code = nearest_codes(load(x, i), inverse)
        code = code & 255 if wrap else smaller(code, FIT_TOP)
        off = load(x, i) - scale * float_lanes(code)
        error += load(weight, i) * off * off
    return error


@leaf
def fit_integers(x, weight, levels):
    """The scale that fits x to integers up to FIT_TOP (ggml-quants.c `make_qp_quants`); all are tiles f32.

    A first guess, then single levels are moved while that helps. Values below zero get negative levels, which the
    reference keeps in unsigned bytes: -1 comes back as 255. To agree with its bytes so does this.
    """
    largest = broadcast(0)
    for i in range(x.shape[0]):
        largest = larger(largest, load(x, i))
    top = np.float32(FIT_TOP)
    inverse = top / largest
    least = fit_error(x, weight, inverse, True)
    for step in range(-4, 5):
        if step != 0:
            other = (np.float32(0.1) * np.float32(step) + top) / largest
            error = fit_error(x, weight, other, False)
            inverse = select(error < least, other, inverse)
            least = select(error < least, error, least)
    lx = l2 = broadcast(0)
    for i in range(x.shape[0]):
        code = smaller(nearest_codes(load(x, i), inverse), FIT_TOP)
        level = float_lanes(code)
        store(levels, i, float_lanes(code & 255))
        lx += load(weight, i) * load(x, i) * level
        l2 += load(weight, i) * level * level
    for _ in range(FIT_SWEEPS):
        changed = broadcast(False)
        for i in range(x.shape[0]):
            w, v, level = load(weight, i), load(x, i), load(levels, i)
            less_lx, less_l2 = lx - w * v * level, l2 - w * level * level
            code = smaller(nearest_codes(v * less_l2 / less_lx, ONE), FIT_TOP)
            new = float_lanes(code)
            new_lx, new_l2 = less_lx + w * v * new, less_l2 + w * new * new
            better = (less_lx > 0) & (less_l2 > 0) & (new != level) & (new_lx * new_lx * l2 > lx * lx * new_l2)
            store(levels, i, select(better, float_lanes(code & 255), level))
            lx, l2 = select(better, new_lx, lx), select(better, new_l2, l2)
            changed |= better
        if not any_lane(changed):
            break
    return select(l2 > 0, lx / l2, 0)


@kernel
def fit_scales(values, size, fits):
    """fits f32 [n_subs]: for every sub-block of `size` values the scale that fits them to integers."""
    x = np.zeros((size, LANES), np.float32)
    weight = np.zeros((size, LANES), np.float32)
    levels = np.empty((size, LANES), np.float32)
    for first in range(0, fits.size, LANES):
        n_lanes = min(LANES, fits.size - first)
        for lane in range(n_lanes):
            for i in range(size):
                x[i, lane] = values.x[size * (first + lane) + i]
                weight[i, lane] = values.weight[size * (first + lane) + i]
        store(levels, 0, fit_integers(x, weight, levels))
        for lane in range(n_lanes):
            fits[first + lane] = levels[0, lane]

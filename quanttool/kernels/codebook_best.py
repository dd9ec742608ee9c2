"""Least weighted error of IQ1, IQ2 and IQ3 blocks: scale of the block, codes of the sub-blocks, points and signs.

The points that are best for some scale are known for every group (`envelopes`), so any scale of a sub-block has its
error in a few operations. LANES scales of the block are tried, each with all codes of every sub-block; each is then
fitted to what it chose, which chooses again. All of it with the scale as float16 will hold it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .envelopes import (
    LANE,
    LARGEST,
    Lines,
    Scratch,
    find_lines,
    find_losses,
    find_losses_of_four,
    first_smallest,
    weigh_points,
)
from .jit import helper, kernel
from .lanes import (
    LANES,
    broadcast,
    float_lanes,
    int_lanes,
    larger,
    load,
    multiply_add,
    number_at,
    select,
    smaller,
    store,
)
from .rounding import f16_bits, f16_value, float_bits, float_of, within_f16

ZERO, HALF, ONE, TWO = np.array([0, 0.5, 1, 2], np.float32)

LEAST_IMPORTANCE = np.float32(1e-9)  # of a block's largest: values that do not count are still not left to chance
REFITS = 1

# Scales of a sub-block that can be best: the largest level of the points stands for something between LOWEST times its
# weighted root mean square and HIGHEST times that, or HIGHEST_OF_LARGEST times its largest magnitude.
LOWEST, HIGHEST, HIGHEST_OF_LARGEST = np.array([0.9, 2.5, 1.3], np.float32)
# The same in units of what is best without a codebook.
NARROW_LOWEST, NARROW_HIGHEST = np.array([0.7, 1.4], np.float32)

# Tried for the scale of a block, in units of what gives the sub-block with the largest scale the highest code.
FIRST_STEP, LAST_STEP = 0.75, 2.0
STEPS = np.geomspace(FIRST_STEP, LAST_STEP, LANES).astype(np.float32)[None]


class BestRules(NamedTuple):
    """What differs between the types; a value is (2 c + 1) * d * unit_of_d * that of its point."""

    sub_size: int  # values with a code c
    highest: int  # code
    choice_size: int  # values whose alternatives, in signs or shift, are chosen together
    signed: bool  # points have signs and may be shifted; else values have signs of their own
    even_signs: bool  # the number of minus signs in 8 values must be even
    unit_of_d: np.float32
    top: np.float32  # largest magnitude of a point's values
    n_probes: int  # scales at which the best of all points is looked for


class Block(NamedTuple):
    """A block under search."""

    weight: NDArray[np.float32]  # [256], the importance, 1 at most
    wx: NDArray[np.float32]  # [256], weight times value; without signs where points have none
    odd: NDArray[np.bool_]  # [32], whether 8 values need a wrong sign
    low: NDArray[np.float32]  # [n_subs], lowest scale of each sub-block
    high: NDArray[np.float32]  # [n_subs], highest
    n_alternatives: NDArray[np.int64]  # [n_choices]
    codes: NDArray[np.int32]  # tile [n_subs, LANES], of each scale tried
    best: NDArray[np.float32]  # tile [1, LANES], scratch


@helper
def load_block(values, rules, signs, block):
    """Values times weight, and signs u8 [32]; gives the factor of the values, a power of two, 0 if all are zero."""
    weight, wx, odd = block.weight, block.wx, block.odd
    largest = ZERO
    for i in range(256):
        largest = max(largest, abs(values[i]))
    if largest == 0:
        return ZERO
    exponent = min(max(254 - (float_bits(largest) >> 23), 1), 227)
    factor = float_of(exponent << 23)
    for group in range(32):
        bits = np.int32(0)
        for i in range(8):
            at = 8 * group + i
            x = values[at] * factor
            negative = x < 0 and not rules.signed
            bits |= np.int32(negative) << i
            wx[at] = weight[at] * (-x if negative else x)
        signs[group] = np.uint8(bits)
        parity = bits ^ (bits >> 4)
        parity ^= parity >> 2
        odd[group] = rules.even_signs and ((parity ^ (parity >> 1)) & 1) != 0
    return factor


@helper
def geometric(low, high, lanes):
    """LANES scales from `low` to `high`, also in lanes f32 [1, LANES]."""
    step = (high / low) ** np.float32(1 / (LANES - 1))
    lanes[0, 0] = low
    for lane in range(1, LANES):
        lanes[0, lane] = lanes[0, lane - 1] * step
    return load(lanes, 0)


@helper
def without_codebook(at, scales, rules, shift, block):
    """Error of a sub-block's values, each rounded to the nearest of -1, 0, 1, plus `shift`; as `least_error`."""
    weight, wx = block.weight, block.wx
    total = broadcast(0)
    for i in range(at, at + rules.sub_size):
        least = broadcast(LARGEST)
        for k in range(-1, 2):
            g = np.float32(k) + shift
            least = smaller(multiply_add(scales, weight[i] * g * g, -TWO * wx[i] * g), least)
        total += least
    return total * scales


@helper
def find_ranges(values, factor, rules, block):
    """Lowest and highest scale to try for every sub-block; small ones get at least what the block's scale can give."""
    weight, low, high = block.weight, block.low, block.high
    largest_low = ZERO
    for sub in range(low.size):
        total = total_w = largest = ZERO
        for i in range(rules.sub_size * sub, rules.sub_size * (sub + 1)):
            x = abs(values[i] * factor)
            total += weight[i] * x * x
            total_w += weight[i]
            largest = max(largest, x)
        rms = np.sqrt(total / total_w)
        low[sub] = LOWEST * rms / rules.top
        high[sub] = max(HIGHEST * rms, HIGHEST_OF_LARGEST * largest) / rules.top
        largest_low = max(largest_low, low[sub])
    least = np.float32(1.5) * largest_low / np.float32(2 * rules.highest + 1)
    for sub in range(low.size):
        low[sub] = max(low[sub], least)
        high[sub] = max(high[sub], low[sub] * HIGHEST / LOWEST)


@helper
def narrow_ranges(rules, shifts, block):
    """Scales near what is best without a codebook, where the codebook has a third of all there could be (IQ1)."""
    low, high, lanes = block.low, block.high, block.best
    for sub in range(low.size):
        scales = geometric(low[sub], high[sub], lanes)
        up = without_codebook(rules.sub_size * sub, scales, rules, shifts[0], block)
        down = without_codebook(rules.sub_size * sub, scales, rules, shifts[1], block)
        scale = lanes[0, first_smallest(smaller(up, down), int_lanes(broadcast(0)))]
        low[sub], high[sub] = scale * NARROW_LOWEST, scale * NARROW_HIGHEST


@helper
def find_all_lines(rules, block, points, scratch, lines):
    """The lines of all groups, for each alternative: the part that has the flipped sign, or the shift."""
    dim = len(points.shape)
    parts, n_groups, n_chunks = rules.choice_size // dim, 256 // dim, scratch.kept.size
    n_tables = points.shifts.size
    end = 0
    for choice in range(256 // rules.choice_size):
        odd = block.odd[rules.choice_size * choice // 8]
        n_alternatives = parts if odd else n_tables
        block.n_alternatives[choice] = n_alternatives
        for part in range(parts):
            group = parts * choice + part
            at = dim * group
            sub = at // rules.sub_size
            total = ZERO
            for i in range(at, at + dim):
                total += block.wx[i]
            for alternative in range(n_alternatives):
                if rules.signed:
                    if group % 4 == 0 and alternative == 0:
                        find_losses_of_four(block.wx, at, points, scratch.losses)
                    losses = scratch.losses[group % 4 * n_chunks : (group % 4 + 1) * n_chunks]
                else:
                    losses = scratch.losses[:n_chunks]
                    find_losses(block.wx, at, odd and part == alternative, points, losses)
                table = alternative if rules.signed else 0
                first = (table * n_groups + group) * n_chunks
                shift_loss = -TWO * points.shifts[table] * total
                l = (2 * choice + alternative) * parts + part
                lines.first[l] = end
                low, high = block.low[sub], block.high[sub]
                end = find_lines(low, high, rules.n_probes, shift_loss, first, points, losses, scratch.kept, lines, end)
                lines.count[l] = end - lines.first[l]


@helper
def least_error(sub, scale, rules, parts, block, lines):
    """The error of a sub-block at LANES scales, less what it is with all values zero."""
    per_sub = rules.sub_size // rules.choice_size
    squares, losses, _, first, count = lines
    n_alternatives = block.n_alternatives
    total = broadcast(0)
    for choice in range(per_sub * sub, per_sub * (sub + 1)):
        best = broadcast(LARGEST)
        for alternative in range(n_alternatives[choice]):
            error = broadcast(0)
            for part in range(parts):
                l = (2 * choice + alternative) * parts + part
                least = broadcast(LARGEST)
                for k in range(first[l], first[l] + count[l]):
                    least = smaller(multiply_add(scale, number_at(squares, k), number_at(losses, k)), least)
                error += least
            best = smaller(error, best)
        total += best
    return total * scale


@helper
def best_sums(sub, scale, rules, parts, block, lines):
    """Of a sub-block's best points at LANES scales sum -2 w x g and sum w g^2."""
    per_sub = rules.sub_size // rules.choice_size
    squares, losses, _, first, count = lines
    n_alternatives = block.n_alternatives
    total_loss = total_square = broadcast(0)
    for choice in range(per_sub * sub, per_sub * (sub + 1)):
        best = broadcast(LARGEST)
        best_loss = best_square = broadcast(0)
        for alternative in range(n_alternatives[choice]):
            loss = square = broadcast(0)
            for part in range(parts):
                l = (2 * choice + alternative) * parts + part
                least = broadcast(LARGEST)
                part_loss = part_square = broadcast(0)
                for k in range(first[l], first[l] + count[l]):
                    v = multiply_add(scale, number_at(squares, k), number_at(losses, k))
                    better = v < least
                    least = select(better, v, least)
                    part_loss = select(better, number_at(losses, k), part_loss)
                    part_square = select(better, number_at(squares, k), part_square)
                loss += part_loss
                square += part_square
            error = multiply_add(scale, square, loss)
            better = error < best
            best = select(better, error, best)
            best_loss, best_square = select(better, loss, best_loss), select(better, square, best_square)
        total_loss += best_loss
        total_square += best_square
    return total_loss, total_square


@helper
def first_scales(rules, parts, block, lines):
    """LANES scales of the block, around what gives the largest best scale of a sub-block the highest code.

    The best scales of the sub-blocks go to block.low.
    """
    low, high, lanes = block.low, block.high, block.best
    for sub in range(low.size):
        error = least_error(sub, geometric(low[sub], high[sub], lanes), rules, parts, block, lines)
        low[sub] = lanes[0, first_smallest(error, int_lanes(broadcast(0)))]
    return load(STEPS, 0) * (low.max() / np.float32(2 * rules.highest + 1))


@helper
def first_codes(d, rules, block):
    """The codes nearest to the best scales of the sub-blocks, for LANES scales of the block."""
    codes, low = block.codes, block.low
    for sub in range(low.size):
        code = int_lanes(smaller(low[sub] / d * HALF, np.float32(rules.highest)))  # rounds down (2 c + 1) / 2
        store(codes, sub, code)


@helper
def as_stored(scales, unit, block):
    """Scales of the block as they will be read back; `unit` is what a stored 1 stands for."""
    best = block.best
    store(best, 0, scales / unit)
    for lane in range(LANES):
        best[0, lane] = f16_value(f16_bits(within_f16(best[0, lane])))
    return load(best, 0) * unit


@helper
def odd_number(code):
    return float_lanes(code + code + 1)


@helper
def choose_codes(d, rules, parts, block, lines):
    """The best of each sub-block's code and its neighbours, for LANES scales of the block; gives the errors."""
    codes = block.codes
    total = broadcast(0)
    for sub in range(codes.shape[0]):
        last = load(codes, sub)
        best, best_code = broadcast(LARGEST), last
        for step in range(-1, 2):
            code = smaller(larger(last + step, 0), rules.highest)
            error = least_error(sub, d * odd_number(code), rules, parts, block, lines)
            best_code = select(error < best, code, best_code)
            best = smaller(error, best)
        store(codes, sub, best_code)
        total += best
    return total


@helper
def refit(d, rules, parts, block, lines):
    """LANES scales fitted to the codes and points that they chose."""
    codes = block.codes
    total_loss = total_square = broadcast(0)
    for sub in range(block.low.size):
        odd = odd_number(load(codes, sub))
        loss, square = best_sums(sub, d * odd, rules, parts, block, lines)
        total_loss += odd * loss
        total_square += odd * odd * square
    return total_loss / (total_square * -TWO)


@helper
def all_codes(d, rules, parts, block, lines, codes):
    """The best codes u8 [n_subs] for one scale of the block: lanes are codes here."""
    lanes = smaller(load(LANE, 0), rules.highest)
    for sub in range(codes.size):
        error = least_error(sub, odd_number(lanes) * d, rules, parts, block, lines)
        codes[sub] = np.uint8(first_smallest(error, int_lanes(broadcast(0))))


@helper
def settle(unit, rules, parts, block, lines, codes):
    """The scale of the block; codes u8 [n_subs] are written."""
    d = as_stored(first_scales(rules, parts, block, lines), unit, block)
    first_codes(d, rules, block)
    error = choose_codes(d, rules, parts, block, lines)
    for _ in range(REFITS):
        d = as_stored(refit(d, rules, parts, block, lines), unit, block)
        error = choose_codes(d, rules, parts, block, lines)
    store(block.best, 0, d)
    best = block.best[0, first_smallest(error, int_lanes(broadcast(0)))]
    all_codes(best, rules, parts, block, lines, codes)
    return best


@helper
def best_line(l, scale, lines):
    """The best of a list at one scale: its value, and where it is."""
    squares, losses, _, first, count = lines
    least, place = LARGEST, first[l]
    for k in range(first[l], first[l] + count[l]):
        v = squares[k] * scale + losses[k]
        if v < least:
            least, place = v, k
    return least, place


@helper
def cheapest_flip(wx, start, point, points):
    """Which of a group's values loses least by the wrong sign."""
    shape, values, _, _ = points
    least, which = LARGEST, 0
    for i in range(len(shape)):
        cost = number_at(values, (point // LANES * len(shape) + i) * LANES + point % LANES) * wx[start + i]
        if cost < least:
            least, which = cost, i
    return which


@helper
def write_choices(d, codes, rules, block, points, lines, chosen, signs):
    """Points i32 [256 / dim] and signs u8 [32] of the block; for shifted points signs are 1 where they go down."""
    dim = len(points.shape)
    parts = rules.choice_size // dim
    for choice in range(block.n_alternatives.size):
        start = rules.choice_size * choice
        scale = d * np.float32(2 * codes[start // rules.sub_size] + 1)
        best, which = LARGEST, 0
        for alternative in range(block.n_alternatives[choice]):
            error = ZERO
            for part in range(parts):
                value, _ = best_line((2 * choice + alternative) * parts + part, scale, lines)
                error += value
            if error < best:
                best, which = error, alternative
        for part in range(parts):
            _, place = best_line((2 * choice + which) * parts + part, scale, lines)
            chosen[parts * choice + part] = lines.point[place]
        if rules.signed:
            for group in range(start // 8, (start + rules.choice_size) // 8):
                signs[group] = np.uint8(which)
        elif block.odd[start // 8]:
            at = start + dim * which
            flip = cheapest_flip(block.wx, at, chosen[at // dim], points)
            signs[start // 8] ^= np.uint8(1 << ((at + flip) % 8))
    if rules.even_signs:  # the eighth follows from the others, and is not stored
        for group in range(32):
            signs[group] &= np.uint8(127)


@helper
def weigh(importance, weight):
    """Importance f32 [256] as weights up to 1; equal ones where all are zero."""
    largest = importance.max()
    for i in range(256):
        share = importance[i] / largest if largest > 0 else ONE
        weight[i] = max(share, LEAST_IMPORTANCE)


@kernel
def best_blocks(rows, importance, rules, points, d, codes, chosen, signs):
    """Search every block of 256 values of rows f32 [n_rows, n_cols], with importance f32 [n_cols].

    Written: d u16 [n_blocks, 1], float16 bits; codes u8 [n_blocks, n_subs]; chosen i32 [n_blocks, 256 / dim], points;
    signs u8 [n_blocks, 32], see `write_choices`. points.squares is scratch.
    """
    dim = len(points.shape)
    parts = rules.choice_size // dim
    n_chunks = points.values.shape[0] // dim
    n_lists = 512 // dim
    n_lines = n_lists * n_chunks * LANES  # far more than there are; untouched memory costs nothing
    n_choices, n_subs = 256 // rules.choice_size, codes.shape[1]
    lines = Lines(
        np.empty(n_lines, np.float32),
        np.empty(n_lines, np.float32),
        np.empty(n_lines, np.int32),
        np.empty(n_lists, np.int64),
        np.empty(n_lists, np.int64),
    )
    block = Block(
        np.empty(256, np.float32),
        np.empty(256, np.float32),
        np.empty(32, np.bool_),
        np.empty(n_subs, np.float32),
        np.empty(n_subs, np.float32),
        np.empty(n_choices, np.int64),
        np.empty((n_subs, LANES), np.int32),
        np.empty((1, LANES), np.float32),
    )
    scratch = Scratch(np.empty((4 * n_chunks, LANES), np.float32), np.empty(n_chunks, np.int64))
    blocks_per_row = importance.size // 256
    for column in range(blocks_per_row):
        weigh(importance[256 * column : 256 * (column + 1)], block.weight)
        weigh_points(block.weight, points)
        for row in range(rows.shape[0]):
            number = row * blocks_per_row + column
            values = rows[row, 256 * column : 256 * (column + 1)]
            factor = load_block(values, rules, signs[number], block)
            if factor == 0:
                d[number] = 0
                codes[number] = 0
                chosen[number] = 0
                signs[number] = 0
                continue
            find_ranges(values, factor, rules, block)
            if rules.signed:
                narrow_ranges(rules, points.shifts, block)
            find_all_lines(rules, block, points, scratch, lines)
            unit = factor * rules.unit_of_d
            scale = settle(unit, rules, parts, block, lines, codes[number])
            d[number, 0] = np.uint16(f16_bits(scale / unit))
            write_choices(scale, codes[number], rules, block, points, lines, chosen[number], signs[number])

"""Least weighted error of IQ1, IQ2 and IQ3 blocks: scale of the block, codes of the sub-blocks, points and signs.

The points that are best for some scale are known for every group (`envelopes`), so any scale of a sub-block has its
error in a few operations. LANES scales of the block are tried, each with all codes of every sub-block; each is then
fitted to what it chose, which chooses again. All of it with the scale as float16 will hold it.
"""

import numpy as np

from .codebook_lines import Block, find_all_lines, find_ranges, geometric, load_block, narrow_ranges, weigh_codebook
from .envelopes import LANE, LARGEST, TWO, Lines, Scratch, first_smallest
from .jit import helper, kernel, leaf
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
from .rounding import f16_bits, f16_value, within_f16

ZERO, HALF, ONE = np.array([0, 0.5, 1], np.float32)

LEAST_IMPORTANCE = np.float32(1e-9)  # of a block's largest: values that do not count are still not left to chance
REFITS = 1

# Tried for the scale of a block, in units of what gives the sub-block with the largest scale the highest code.
FIRST_STEP, LAST_STEP = 0.75, 2.0
STEPS = np.geomspace(FIRST_STEP, LAST_STEP, LANES).astype(np.float32)[None]


@leaf
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


@leaf
def least_errors_of_three(sub, low, middle, high, rules, parts, block, lines):
    """`least_error` for three scales in each lane: lists are read once."""
    per_sub = rules.sub_size // rules.choice_size
    squares, losses, _, first, count = lines
    n_alternatives = block.n_alternatives
    total_low = total_middle = total_high = broadcast(0)
    for choice in range(per_sub * sub, per_sub * (sub + 1)):
        best_low = best_middle = best_high = broadcast(LARGEST)
        for alternative in range(n_alternatives[choice]):
            error_low = error_middle = error_high = broadcast(0)
            for part in range(parts):
                l = (2 * choice + alternative) * parts + part
                least_low = least_middle = least_high = broadcast(LARGEST)
                for k in range(first[l], first[l] + count[l]):
                    square, loss = number_at(squares, k), number_at(losses, k)
                    least_low = smaller(multiply_add(low, square, loss), least_low)
                    least_middle = smaller(multiply_add(middle, square, loss), least_middle)
                    least_high = smaller(multiply_add(high, square, loss), least_high)
                error_low += least_low
                error_middle += least_middle
                error_high += least_high
            best_low, best_middle = smaller(error_low, best_low), smaller(error_middle, best_middle)
            best_high = smaller(error_high, best_high)
        total_low += best_low
        total_middle += best_middle
        total_high += best_high
    return total_low * low, total_middle * middle, total_high * high


@leaf
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


@leaf
def first_scales(rules, parts, block, lines):
    """LANES scales of the block, around what gives the largest best scale of a sub-block the highest code.

    The best scales of the sub-blocks go to block.low.
    """
    low, high, lanes = block.low, block.high, block.best
    largest = ZERO
    for sub in range(low.size):
        error = least_error(sub, geometric(low[sub], high[sub], lanes), rules, parts, block, lines)
        low[sub] = lanes[0, first_smallest(error, int_lanes(broadcast(0)))]
        largest = max(largest, low[sub])
    return load(STEPS, 0) * (largest / np.float32(2 * rules.highest + 1))


@leaf
def first_codes(d, rules, block):
    """The codes nearest to the best scales of the sub-blocks, for LANES scales of the block."""
    codes, low = block.codes, block.low
    for sub in range(low.size):
        code = int_lanes(smaller(low[sub] / d * HALF, np.float32(rules.highest)))  # rounds down (2 c + 1) / 2
        store(codes, sub, code)


@leaf
def as_stored(scales, unit, block):
    """Scales of the block as they will be read back; `unit` is what a stored 1 stands for."""
    best = block.best
    store(best, 0, scales / unit)
    for lane in range(LANES):
        best[0, lane] = f16_value(f16_bits(within_f16(best[0, lane])))
    return load(best, 0) * unit


@leaf
def odd_number(code):
    return float_lanes(code + code + 1)


@leaf
def choose_codes(d, rules, parts, block, lines):
    """The best of each sub-block's code and its neighbours, for LANES scales of the block; gives the errors."""
    codes = block.codes
    total = broadcast(0)
    for sub in range(codes.shape[0]):
        code = load(codes, sub)
        lower, higher = larger(code - 1, 0), smaller(code + 1, rules.highest)
        scales = d * odd_number(lower), d * odd_number(code), d * odd_number(higher)
        error_lower, best, error_higher = least_errors_of_three(sub, *scales, rules, parts, block, lines)
        best_code = select(error_lower < best, lower, code)
        best = smaller(error_lower, best)
        best_code = select(error_higher < best, higher, best_code)
        best = smaller(error_higher, best)
        store(codes, sub, best_code)
        total += best
    return total


@leaf
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


@leaf
def all_codes(d, rules, parts, block, lines, codes):
    """The best codes u8 [n_subs] for one scale of the block: lanes are codes here."""
    lanes = smaller(load(LANE, 0), rules.highest)
    for sub in range(codes.size):
        error = least_error(sub, odd_number(lanes) * d, rules, parts, block, lines)
        codes[sub] = np.uint8(first_smallest(error, int_lanes(broadcast(0))))


@leaf
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


@leaf
def best_line(l, scale, lines):
    """The best of a list at one scale: its value, and where it is."""
    squares, losses, _, first, count = lines
    least, place = LARGEST, first[l]
    for k in range(first[l], first[l] + count[l]):
        v = squares[k] * scale + losses[k]
        if v < least:
            least, place = v, k
    return least, place


@leaf
def cheapest_flip(wx, start, point, points):
    """Which of a group's values loses least by the wrong sign."""
    dim = len(points.shape)
    least, which = LARGEST, 0
    for i in range(dim):
        cost = number_at(points.book, point * dim + i) * wx[start + i]
        if cost < least:
            least, which = cost, i
    return which


@leaf
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
        if rules.shift != 0:
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
    n_lists = 512 // dim
    n_lines = n_lists * (points.book.size // dim)  # far more than there are; untouched memory costs nothing
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
        np.empty((n_subs, rules.n_probes), np.float32),
        np.empty(n_choices, np.int64),
        np.ones(2 * n_choices, np.bool_),
        np.empty((2 * n_choices, LANES), np.float32),
        np.empty((n_subs, LANES), np.int32),
        np.empty((1, LANES), np.float32),
    )
    n_chunks = points.book.size // dim // 8  # rows of points, even if each class of them begins with one of its own
    scratch = Scratch(
        np.empty((n_chunks, LANES), np.float32),
        np.empty(n_chunks, np.int64),
        np.empty(rules.n_probes, np.int64),
        np.empty(rules.n_probes, np.float32),
        np.empty(rules.n_probes, np.float32),
    )
    blocks_per_row = importance.size // 256
    for column in range(blocks_per_row):
        weigh(importance[256 * column : 256 * (column + 1)], block.weight)
        weigh_codebook(points, block.weight)
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
            if rules.shift != 0:
                narrow_ranges(rules, block)
            find_all_lines(rules, parts, block, points, scratch, lines)
            unit = factor * rules.unit_of_d
            scale = settle(unit, rules, parts, block, lines, codes[number])
            d[number, 0] = np.uint16(f16_bits(scale / unit))
            write_choices(scale, codes[number], rules, block, points, lines, chosen[number], signs[number])

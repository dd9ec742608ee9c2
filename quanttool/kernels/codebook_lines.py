"""What IQ1, IQ2 and IQ3 blocks have to choose from: for every group of values the points that are best at some scale.

`halves` and `envelopes` find them for one group; the scales that come into question are found here.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from .envelopes import (
    LARGEST,
    TWO,
    Points,
    find_losses,
    first_smallest,
    keep_lines,
    weigh_points,
)
from .halves import choose_rows, find_class_losses, name_points, weigh_halves
from .jit import leaf
from .lanes import LANES, broadcast, int_lanes, load, multiply_add, smaller, store
from .rounding import float_bits, float_of

ZERO = np.float32(0)

# Scales of a sub-block that can be best: the largest level of the points stands for something between LOWEST times its
# weighted root mean square and HIGHEST times that, or HIGHEST_OF_LARGEST times its largest magnitude.
LOWEST, HIGHEST, HIGHEST_OF_LARGEST = np.array([0.9, 2.5, 1.3], np.float32)
# The same in units of what is best without a codebook.
NARROW_LOWEST, NARROW_HIGHEST = np.array([0.7, 1.4], np.float32)


class BestRules(NamedTuple):
    """What differs between the types; a value is (2 c + 1) * d * unit_of_d * that of its point."""

    sub_size: int  # values with a code c
    highest: int  # code
    choice_size: int  # values whose alternatives, in signs or shift, are chosen together
    shift: np.float32  # points have signs and are shifted so much up or down; 0: values have signs of their own
    hopeless: np.float32  # a shift whose error is so many times that of the other, without a codebook, is left out
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
    probes: NDArray[np.float32]  # [n_subs, n_probes], scales from low to high
    n_alternatives: NDArray[np.int64]  # [n_choices]
    possible: NDArray[np.bool_]  # [n_choices * 2], whether an alternative is looked at
    errors: NDArray[np.float32]  # tile [n_choices * 2, LANES], scratch
    codes: NDArray[np.int32]  # tile [n_subs, LANES], of each scale tried
    best: NDArray[np.float32]  # tile [1, LANES], scratch


@leaf
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
            negative = x < 0 and rules.shift == 0
            bits |= np.int32(negative) << i
            wx[at] = weight[at] * (-x if negative else x)
        signs[group] = np.uint8(bits)
        parity = bits ^ (bits >> 4)
        parity ^= parity >> 2
        odd[group] = rules.even_signs and ((parity ^ (parity >> 1)) & 1) != 0
    return factor


@leaf
def geometric(low, high, lanes):
    """LANES scales from `low` to `high`, also in lanes f32 [1, LANES]."""
    step = (high / low) ** np.float32(1 / (LANES - 1))
    lanes[0, 0] = low
    for lane in range(1, LANES):
        lanes[0, lane] = lanes[0, lane - 1] * step
    return load(lanes, 0)


@leaf
def without_codebook(choice, scales, size, shift, block):
    """Error of `size` values, each rounded to the nearest of -1, 0, 1, plus `shift`; as `least_error`."""
    weight, wx = block.weight, block.wx
    total = broadcast(0)
    for i in range(size * choice, size * (choice + 1)):
        least = broadcast(LARGEST)
        for k in range(-1, 2):
            g = np.float32(k) + shift
            least = smaller(multiply_add(scales, weight[i] * g * g, -TWO * wx[i] * g), least)
        total += least
    return total * scales


@leaf
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


@leaf
def narrow_ranges(rules, block):
    """Scales near what is best without a codebook, where the codebook has a third of all there could be (IQ1).

    A shift that is much worse without a codebook is not looked at with it.
    """
    low, high, lanes, errors = block.low, block.high, block.best, block.errors
    size = rules.choice_size
    per_sub = rules.sub_size // size
    for sub in range(low.size):
        scales = geometric(low[sub], high[sub], lanes)
        total = broadcast(0)
        for choice in range(per_sub * sub, per_sub * (sub + 1)):
            up = without_codebook(choice, scales, size, rules.shift, block)
            down = without_codebook(choice, scales, size, -rules.shift, block)
            store(errors, 2 * choice, up)
            store(errors, 2 * choice + 1, down)
            total += smaller(up, down)
        best = first_smallest(total, int_lanes(broadcast(0)))
        low[sub], high[sub] = lanes[0, best] * NARROW_LOWEST, lanes[0, best] * NARROW_HIGHEST
        for choice in range(per_sub * sub, per_sub * (sub + 1)):
            energy = ZERO
            for i in range(size * choice, size * (choice + 1)):
                energy += block.wx[i] * block.wx[i] / block.weight[i]
            up, down = energy + errors[2 * choice, best], energy + errors[2 * choice + 1, best]
            block.possible[2 * choice] = up <= rules.hopeless * down
            block.possible[2 * choice + 1] = down <= rules.hopeless * up


@leaf
def set_probes(block):
    """Scales from the lowest to the highest of every sub-block, evenly spaced in their logarithm."""
    low, high, probes = block.low, block.high, block.probes
    n_probes = probes.shape[1]
    for sub in range(low.size):
        step = (high[sub] / low[sub]) ** np.float32(1 / (n_probes - 1))
        probes[sub, 0] = low[sub]
        for k in range(1, n_probes):
            probes[sub, k] = probes[sub, k - 1] * step


def weigh_codebook(points, weight):
    """What of the points depends on importance alone: once for all rows."""
    raise NotImplementedError("compiled code only")


@overload(weigh_codebook)
def _weigh_codebook(points, weight):
    def of_all(points, weight):
        weigh_points(weight, points)

    def of_halves(points, weight):
        weigh_halves(weight, points)

    return of_all if points.instance_class is Points else of_halves


def lines_of_group(points, block, sub, group, table, flip, scratch, lines, end):
    """Append what may be best of a group's points with the shift of a table, or one sign flipped; gives the new end."""
    raise NotImplementedError("compiled code only")


@overload(lines_of_group)
def _lines_of_group(points, block, sub, group, table, flip, scratch, lines, end):
    def of_all(points, block, sub, group, table, flip, scratch, lines, end):
        dim, losses = len(points.shape), scratch.losses
        n = points.values.shape[0] // dim
        find_losses(block.wx, dim * group, n, flip, points, losses)
        return keep_lines(block.probes[sub], n, losses, points.squares, group * n, scratch, lines, end)

    def of_halves(points, block, sub, group, table, flip, scratch, lines, end):
        wx, at, losses, start = block.wx, len(points.shape) * group, scratch.losses, end
        find_class_losses(wx, at, points.leading[group], points)
        n = choose_rows(block.low[sub], block.high[sub], wx, group, table, points, losses)
        end = keep_lines(block.probes[sub], n, losses, points.chosen, 0, scratch, lines, end)
        total = ZERO
        for i in range(at, at + len(points.shape)):
            total += wx[i]
        name_points(points, group, -TWO * points.shifts[table] * total, lines, start, end)
        return end

    return of_all if points.instance_class is Points else of_halves


@leaf
def find_all_lines(rules, parts, block, points, scratch, lines):
    """The lines of all groups, for each alternative: the part that has the flipped sign, or the shift."""
    set_probes(block)
    end, n_tables = 0, 1 if rules.shift == 0 else 2
    for choice in range(block.n_alternatives.size):
        odd = block.odd[rules.choice_size * choice // 8]
        n_alternatives = parts if odd else n_tables
        block.n_alternatives[choice] = n_alternatives
        for part in range(parts):
            group = parts * choice + part
            sub = len(points.shape) * group // rules.sub_size
            for alternative in range(n_alternatives):
                l = (2 * choice + alternative) * parts + part
                lines.first[l] = end
                lines.count[l] = 0
                if not block.possible[2 * choice + alternative]:
                    continue
                table, flip = alternative if rules.shift != 0 else 0, odd and part == alternative
                end = lines_of_group(points, block, sub, group, table, flip, scratch, lines, end)
                lines.count[l] = end - lines.first[l]

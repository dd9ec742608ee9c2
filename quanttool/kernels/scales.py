"""The scale searches of ggml, one block per lane; each follows its original in ggml-quants.c operation by operation.

All arrays are tiles, [n, LANES]: x f32 holds the values, weight f32 says how much an error in each counts, codes u8
takes the integers found. A search looks at `size` rows from `first` on, one (sub-)block in each lane.

Values are clamped before they are rounded, which gives the same integers as the other way round and keeps them where
`nearest` works. Where sums overflow (the originals end in NaN) the first guess of a scale stands.
"""

import numpy as np

from .jit import helper, kernel
from .lanes import any_lane, broadcast, float_lanes, int_lanes, larger, load, magnitude, select, smaller, store
from .rounding import nearest

GROUP_MAX_EPS = np.float32(1e-15)  # blocks that stay below are stored as zeros
LARGEST = np.float32(3.4028235e38)
INFINITY = np.float32(np.inf)
TENTH = np.float32(0.1)
LOWEST_INTEGER = np.float32(-(1 << 21))  # well within what `nearest` can round
SWEEPS = 5


@helper
def code_of(x, largest):
    """Nearest integer within 0 .. largest; NaN gives 0."""
    return nearest(smaller(larger(x, 0), largest))


@helper
def signed_code_of(x, n):
    """Nearest integer within -n .. n - 1; NaN gives -n."""
    return nearest(smaller(larger(x, -n), n - 1))


@helper
def finite_or(x, otherwise):
    """`otherwise` where x is infinite or NaN."""
    return select(magnitude(x) <= LARGEST, x, otherwise)


@helper
def first_largest(x, first, size):
    """In each lane the first of the values whose magnitude is largest."""
    largest = load(x, first)
    for i in range(first + 1, first + size):
        v = load(x, i)
        largest = select(magnitude(v) > magnitude(largest), v, largest)
    return largest


@helper
def largest_positive(x):
    """The largest value in each lane, at least 0."""
    largest = broadcast(0)
    for i in range(x.shape[0]):
        largest = larger(load(x, i), largest)
    return largest


@helper
def infinite_if_tiny(largest):
    """Infinity where below GROUP_MAX_EPS: the inverse scale, so divided, is zero, and so are all codes."""
    return select(magnitude(largest) < GROUP_MAX_EPS, INFINITY, largest)


# --- a scale and a minimum: codes 0 .. max_code ----------------------------------------------------------------------


@helper
def weighted_range(x, weight, first, size):
    """Minimum (at most 0), maximum, sum of weights, weighted sum of values."""
    lowest = highest = load(x, first)
    sum_w = load(weight, first)
    sum_x = sum_w * lowest
    for i in range(first + 1, first + size):
        v, w = load(x, i), load(weight, i)
        lowest = smaller(v, lowest)
        highest = larger(v, highest)
        sum_w += w
        sum_x += w * v
    return select(lowest > 0, 0, lowest), highest, sum_w, sum_x


@helper
def affine_sums(x, weight, first, inverse, base, max_code, rounded):
    """Quantize into rounded f32 [size, LANES]; the weighted sums of l, l^2 and l x."""
    sum_l = sum_l2 = sum_lx = broadcast(0)
    for i in range(rounded.shape[0]):
        v = load(x, first + i)
        l = code_of(inverse * (v - base), max_code)
        store(rounded, i, l)
        wl = load(weight, first + i) * l
        sum_l += wl
        sum_l2 += wl * l
        sum_lx += wl * v
    return sum_l, sum_l2, sum_lx


@helper
def affine_error(x, weight, first, rounded, scale, minimum, absolute):
    """Weighted sum of the squared (or absolute) errors of scale * l + minimum."""
    error = broadcast(0)
    for i in range(rounded.shape[0]):
        diff = scale * load(rounded, i) + minimum - load(x, first + i)
        diff = magnitude(diff) if absolute else diff * diff
        error += load(weight, first + i) * diff
    return error


@helper
def affine_search(x, weight, first, max_code, grid, absolute, rounded, codes):
    """Scale, -minimum and sum of weights for codes 0 .. max_code (`make_qkx2_quants`, `make_qkx3_quants`).

    grid is (start, step, n): inverse scales (max_code + start + step k) / range are tried, k = 0 .. n, each followed
    by the least-squares scale and minimum. rounded f32 [size, LANES] is scratch.
    """
    start, step, n_steps = grid
    minimum, highest, sum_w, sum_x = weighted_range(x, weight, first, rounded.shape[0])
    base = minimum
    inverse = max_code / (highest - minimum)
    scale = 1 / inverse
    inverse = finite_or(inverse, 0)
    affine_sums(x, weight, first, inverse, base, max_code, rounded)
    best = affine_error(x, weight, first, rounded, scale, minimum, absolute)
    for k in range(n_steps + 1):
        steps = np.float32(start) + np.float32(step) * np.float32(k) + np.float32(max_code)
        this_base = minimum
        this_inverse = finite_or(steps / (highest - minimum), 0)
        sum_l, sum_l2, sum_lx = affine_sums(x, weight, first, this_inverse, this_base, max_code, rounded)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_lx - sum_x * sum_l) / determinant
        this_minimum = (sum_l2 * sum_x - sum_l * sum_lx) / determinant
        this_scale = select(this_minimum > 0, sum_lx / sum_l2, this_scale)
        this_minimum = select(this_minimum > 0, 0, this_minimum)
        error = affine_error(x, weight, first, rounded, this_scale, this_minimum, absolute)
        better = (determinant > 0) & (error < best)
        best = select(better, error, best)
        scale = select(better, this_scale, scale)
        minimum = select(better, this_minimum, minimum)
        inverse = select(better, this_inverse, inverse)
        base = select(better, this_base, base)
    for i in range(first, first + rounded.shape[0]):
        store(codes, i, int_lanes(code_of(inverse * (load(x, i) - base), max_code)))
    return scale, -minimum, sum_w


@helper
def affine_codes(x, first, size, max_code, scale, minimum, codes):
    """Codes for a given scale and minimum; where the scale is zero they stay as they are."""
    for i in range(first, first + size):
        l = int_lanes(code_of((load(x, i) + minimum) / scale, max_code))
        store(codes, i, select(scale == 0, load(codes, i), l))


# --- a scale for integers on both sides of zero, -n .. n - 1, stored as codes 0 .. 2 n - 1 --------------------------


@helper
def symmetric_sums(x, weight, first, size, inverse, n):
    """The weighted sums of l x and l^2."""
    sum_lx = sum_l2 = broadcast(0)
    for i in range(first, first + size):
        v, w = load(x, i), load(weight, i)
        l = signed_code_of(inverse * v, n)
        sum_lx += w * v * l
        sum_l2 += w * l * l
    return sum_lx, sum_l2


@helper
def symmetric_search(x, weight, first, size, n, codes):
    """Scale for integers -n .. n - 1 (`make_qx_quants`, rmse_type 1); 0, and codes 0, where all is tiny.

    The value of largest magnitude goes to -n, then to -n -+ 0.1 k for k up to 9, each followed by the least-squares
    scale.
    """
    largest = infinite_if_tiny(first_largest(x, first, size))
    best_inverse = -n / largest
    sum_lx, sum_l2 = symmetric_sums(x, weight, first, size, best_inverse, n)
    scale = select(sum_l2 == 0, 0, sum_lx / sum_l2)
    best = scale * sum_lx
    for k in range(-9, 10):
        if k == 0:
            continue
        inverse = -(np.float32(n) + TENTH * np.float32(k)) / largest
        sum_lx, sum_l2 = symmetric_sums(x, weight, first, size, inverse, n)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        scale = select(better, sum_lx / sum_l2, scale)
        best = select(better, scale * sum_lx, best)
        best_inverse = select(better, inverse, best_inverse)
    tiny = largest == INFINITY
    for i in range(first, first + size):
        store(codes, i, select(tiny, 0, int_lanes(signed_code_of(best_inverse * load(x, i), n)) + n))
    return select(tiny, 0, finite_or(scale, largest / -n))


@kernel
def symmetric_scales(x, weight, size, n, codes, scale):
    """`symmetric_search` for every `size` rows; scale f32 [n_rows / size, LANES]."""
    for sub in range(scale.shape[0]):
        store(scale, sub, symmetric_search(x, weight, size * sub, size, n, codes))


@helper
def descent_search(x, first, n, rounded, codes):
    """Scale for integers -n .. n - 1 with weights x^2 (`make_q3_quants`); 0, and codes 0, where all is tiny.

    The value of largest magnitude goes to -n; then sweeps move one integer at a time while that helps.
    rounded f32 [size, LANES] is scratch.
    """
    size = rounded.shape[0]
    largest = infinite_if_tiny(first_largest(x, first, size))
    inverse = -n / largest
    sum_lx = sum_l2 = broadcast(0)
    for i in range(size):
        v = load(x, first + i)
        l = signed_code_of(inverse * v, n)
        store(rounded, i, l)
        sum_lx += v * v * v * l
        sum_l2 += v * v * l * l
    for _ in range(SWEEPS):
        changed = broadcast(False)
        for i in range(size):
            v, l = load(x, first + i), load(rounded, i)
            lx = sum_lx - v * v * v * l
            l2 = sum_l2 - v * v * l * l
            new_l = signed_code_of(v * l2 / lx, n)
            new_lx = lx + v * v * v * new_l
            new_l2 = l2 + v * v * new_l * new_l
            better = (lx > 0) & (new_l != l) & (new_l2 > 0) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            store(rounded, i, select(better, new_l, l))
            sum_lx = select(better, new_lx, sum_lx)
            sum_l2 = select(better, new_l2, sum_l2)
            changed |= better
        if not any_lane(changed):
            break
    tiny = largest == INFINITY
    for i in range(size):
        store(codes, first + i, select(tiny, 0, int_lanes(load(rounded, i)) + n))
    return select(sum_l2 > 0, finite_or(sum_lx / sum_l2, largest / -n), 0)


@helper
def symmetric_codes(x, first, size, n, scale, codes):
    """Codes for a given scale; where that is zero they stay as they are."""
    for i in range(first, first + size):
        l = int_lanes(signed_code_of(load(x, i) / scale, n)) + n
        store(codes, i, select(scale == 0, load(codes, i), l))


# --- a scale for the scales of a super-block: all rows of x --------------------------------------------------------
#
# Integers are stored unsigned. Where weights differ by many orders of magnitude a least-squares scale can come out
# negative; its integer then wraps, in the originals and so here.


@helper
def integer_of(x, largest):
    """Nearest integer up to `largest`, without a lower bound that matters."""
    return nearest(smaller(larger(x, LOWEST_INTEGER), largest))


@helper
def as_byte(integer):
    """A float's integer modulo 256."""
    return float_lanes(int_lanes(integer) & 255)


@helper
def positive_error(x, weight, inverse, max_code, unsigned):
    """Weighted sum of squared errors of integers up to max_code."""
    scale = 1 / inverse
    error = broadcast(0)
    for i in range(x.shape[0]):
        l = integer_of(inverse * load(x, i), max_code)
        diff = load(x, i) - scale * (as_byte(l) if unsigned else l)
        error += load(weight, i) * diff * diff
    return error


@helper
def positive_sweep(x, weight, max_code, integers, sum_lx, sum_l2):
    """Move one integer at a time where that helps; the new sums, and whether any moved."""
    changed = broadcast(False)
    for i in range(x.shape[0]):
        v, w, l = load(x, i), load(weight, i), load(integers, i)
        lx = sum_lx - w * v * l
        l2 = sum_l2 - w * l * l
        new_l = integer_of(v * l2 / lx, max_code)
        new_lx = lx + w * v * new_l
        new_l2 = l2 + w * new_l * new_l
        better = (lx > 0) & (l2 > 0) & (new_l != l) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
        store(integers, i, select(better, as_byte(new_l), l))
        sum_lx = select(better, new_lx, sum_lx)
        sum_l2 = select(better, new_l2, sum_l2)
        changed |= better
    return sum_lx, sum_l2, any_lane(changed)


@helper
def positive_search(x, weight, max_code, integers):
    """Scale for non-negative x and integers 0 .. max_code f32 (`make_qp_quants`); all 0 where all is tiny.

    A small grid of inverse scales, then sweeps that move one integer at a time.
    """
    largest = infinite_if_tiny(largest_positive(x))
    best_inverse = max_code / largest
    best = positive_error(x, weight, best_inverse, max_code, True)
    for k in range(-4, 5):
        if k == 0:
            continue
        inverse = (TENTH * np.float32(k) + np.float32(max_code)) / largest
        error = positive_error(x, weight, inverse, max_code, False)
        best_inverse = select(error < best, inverse, best_inverse)
        best = select(error < best, error, best)
    sum_lx = sum_l2 = broadcast(0)
    for i in range(x.shape[0]):
        v, w = load(x, i), load(weight, i)
        l = integer_of(best_inverse * v, max_code)
        store(integers, i, as_byte(l))
        sum_lx += w * v * l
        sum_l2 += w * l * l
    for _ in range(SWEEPS):
        sum_lx, sum_l2, changed = positive_sweep(x, weight, max_code, integers, sum_lx, sum_l2)
        if not changed:
            break
    return select(sum_l2 > 0, finite_or(sum_lx / sum_l2, largest / max_code), 0)


@helper
def largest_to_max_code(x, max_code, integers):
    """Scale for non-negative x that makes the largest max_code; integers f32 likewise."""
    largest = largest_positive(x)
    inverse = select(largest > 0, finite_or(max_code / largest, 0), 0)
    for i in range(x.shape[0]):
        store(integers, i, code_of(inverse * load(x, i), max_code))
    return largest / max_code


@helper
def largest_to_minus_n(x, n, integers):
    """The value of largest magnitude and the scale that makes it -n; integers -n .. n - 1 f32, all -n if it is zero."""
    largest = first_largest(x, 0, x.shape[0])
    inverse = -n / largest
    for i in range(x.shape[0]):
        store(integers, i, signed_code_of(inverse * load(x, i), n))
    return largest, 1 / inverse

"""Small measures of a block that several searches need."""

import numpy as np

from .jit import helper, kernel
from .rounding import float_bits, float_of

SQUARES_OVERFLOW = np.float32(1e16)  # mean squares from here on would make sums overflow; no float16 scale is so large
LARGEST_SCALE = np.float32(1e30)  # far beyond what a float16 holds


@helper
def mean_square(values):
    """f32 [n] -> f32, summed in order; n a power of two, so dividing is exact."""
    total = np.float32(0)
    for j in range(values.size):
        total += values[j] * values[j]
    return total / np.float32(values.size)


@helper
def largest_magnitude(values):
    """f32 [n] -> f32. Magnitudes compare as their bits do, and an integer maximum becomes vector code."""
    largest = np.int32(0)
    for j in range(values.size):
        bits = np.int32(float_bits(values[j]) & 0x7FFFFFFF)
        largest = bits if bits > largest else largest
    return float_of(largest)


@kernel
def all_finite(rows):
    """Whether no value of rows f32 [n_rows, n_cols] is infinite or NaN; four times as fast as numpy's sum."""
    finite = True
    for row in range(rows.shape[0]):
        finite &= largest_magnitude(rows[row]) < np.inf
    return finite


@helper
def finite_or(x, otherwise):
    """x, or `otherwise` where x is infinite or NaN: sums overflow where weights or importance are huge."""
    return x if abs(x) < np.inf else otherwise


@helper
def shrunk_square(values):
    """Mean square of a block, and what to multiply values with first so that no sum overflows: 1, but for giants."""
    square = mean_square(values)
    if square < SQUARES_OVERFLOW:
        return square, np.float32(1)
    exponent = float_bits(largest_magnitude(values)) >> 23
    shrink = float_of(max(np.int32(254 - exponent), 1) << 23)  # brings the largest to between 1 and 4
    square = np.float32(0)
    for i in range(values.size):
        square += (values[i] * shrink) * (values[i] * shrink)
    return square / np.float32(values.size), shrink

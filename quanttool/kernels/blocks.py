"""Small measures of a block that several searches need."""

import numpy as np

from .jit import helper


@helper
def mean_square(values):
    """f32 [n] -> f32, summed in order; n a power of two, so dividing is exact."""
    total = np.float32(0)
    for j in range(values.size):
        total += values[j] * values[j]
    return total / np.float32(values.size)

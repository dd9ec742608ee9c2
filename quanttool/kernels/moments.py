"""Sums over rows of activations."""

import numpy as np

from .jit import kernel


@kernel
def add_moments(x, sums, sums_of_squares):
    """Add x and x ** 2 of all rows: x f32 [n_rows, n_cols], both sums f64 [n_cols]."""
    n_rows, n_cols = x.shape
    for row in range(n_rows):
        for column in range(n_cols):
            value = np.float64(x[row, column])  # float() would stay float32
            sums[column] += value
            sums_of_squares[column] += value * value

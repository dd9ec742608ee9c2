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


@kernel
def add_weighted_moments(x, weights, sums, sums_of_squares):
    """As `add_moments`, each row as often as its weight says: weights f32 [n_rows]."""
    n_rows, n_cols = x.shape
    for row in range(n_rows):
        weight = np.float64(weights[row])
        for column in range(n_cols):
            value = np.float64(x[row, column])
            sums[column] += weight * value
            sums_of_squares[column] += weight * value * value

"""Weighted squared errors of blocks, in float64."""

import numpy as np

from .jit import kernel

SIDE_BY_SIDE = 16  # sums that are kept apart, so that adding becomes vector code


@kernel
def weighted_errors(rows, values, importance, errors):
    """errors[i] = sum importance (rows - values)^2 over block i.

    rows, values:  f32 [n_rows, n_cols]
    importance:    f32 [n_cols]
    errors:        f64 [n_rows, n_blocks], written; n_cols / n_blocks is a multiple of SIDE_BY_SIDE
    """
    n_rows, n_blocks = errors.shape
    size = rows.shape[1] // n_blocks
    partial = np.empty(SIDE_BY_SIDE, np.float64)
    for row in range(n_rows):
        for block in range(n_blocks):
            partial[:] = 0
            for first in range(size * block, size * (block + 1), SIDE_BY_SIDE):
                for k in range(SIDE_BY_SIDE):
                    off = np.float64(rows[row, first + k]) - np.float64(values[row, first + k])
                    partial[k] += np.float64(importance[first + k]) * off * off
            errors[row, block] = partial.sum()

"""The rounding kernel against its definition, row by row in float64."""

import numpy as np

from quanttool.kernels.feedback import round_columns
from quanttool.kernels.lanes import LANES


def naive(targets, shifts, couplings, levels, groups, errors):
    """One row: targets, shifts, errors [n_cols], levels [n_groups, n_levels] -> codes, errors."""
    codes, errors = np.empty(len(targets), np.uint8), errors.astype(np.float64)
    for column in range(len(targets)):
        x = (
            targets[column]
            + shifts[column]
            - sum(couplings[column, other] * errors[other] for other in range(len(targets)))
        )
        codes[column] = np.abs(levels[groups[column]] - x).argmin()
        errors[column] = levels[groups[column], codes[column]] - targets[column]
    return codes, errors


def test_each_lane_is_a_row_of_its_own():
    rng = np.random.default_rng(2)
    n_rows, n_cols, n_groups, n_levels = 2 * LANES, 24, 3, 5
    targets, shifts, errors = rng.standard_normal((3, n_rows, n_cols)).astype(np.float32)
    couplings = (0.2 * rng.standard_normal((n_cols, n_cols))).astype(np.float32)
    np.fill_diagonal(couplings, 0)
    levels = rng.standard_normal((n_rows, n_groups, n_levels)).astype(np.float32)
    groups = rng.integers(0, n_groups, n_cols)
    groups[-1] = n_groups - 1

    def tiles(array):
        return np.ascontiguousarray(array.reshape(2, LANES, -1).transpose(0, 2, 1)).reshape(-1, LANES)

    new_errors, codes = tiles(errors), np.empty((2 * n_cols, LANES), np.uint8)
    round_columns(tiles(targets), tiles(shifts), couplings, tiles(levels), groups, codes, new_errors)
    for row in range(n_rows):
        expected_codes, expected = naive(targets[row], shifts[row], couplings, levels[row], groups, errors[row])
        tile, lane = divmod(row, LANES)
        mine = slice(tile * n_cols, (tile + 1) * n_cols)
        assert np.array_equal(codes[mine, lane], expected_codes)
        assert np.allclose(new_errors[mine, lane], expected, atol=1e-5)

"""search="best" of the linear types: in no block above reference, and near the optimum that brute force finds."""

import numpy as np
import pytest

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from tests.formats.test_robustness import awkward_importance, awkward_rows
from tests.naive_best import best_symmetric_error

SYMMETRIC = {"Q4_0": 8, "Q5_0": 16, "Q6_0": 32}
NAMES = [*SYMMETRIC, "Q4_1", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def block_errors(name, rows, importance, search):
    """Weighted squared error of each block, f64 [n_blocks], of what the bytes stand for."""
    values = dequantize_rows(quantize_rows(rows, name, importance, search), name, rows.shape[1])
    with np.errstate(over="ignore"):
        weighted = importance.astype(np.float64) * (values.astype(np.float64) - rows) ** 2
    return weighted.reshape(-1, block_format(name).type.block_size).sum(axis=1)


def kinds_of_rows(rng, n_cols=512):
    """Rows as weights are, and rows that are not."""
    rows = rng.standard_t(4, (24, n_cols)).astype(np.float32)
    rows[8:16] = np.round(3 * rows[8:16]) / 4
    rows[20:] = np.abs(rows[20:])
    return np.concatenate([rows, awkward_rows(rng, n_cols)])


@pytest.mark.parametrize("name", NAMES)
def test_no_block_is_worse_than_reference(name, golden):
    rng = np.random.default_rng(3)
    rows = kinds_of_rows(rng)
    for importance in [rng.gamma(0.5, 1, 512).astype(np.float32), *awkward_importance(rng)]:
        best, reference = (block_errors(name, rows, importance, search) for search in ("best", "reference"))
        assert np.isfinite(best).all()
        assert (best <= reference).all(), np.flatnonzero(best > reference)
    inputs = np.load(golden / "formats" / "input.npz")
    rows, importance = inputs["rows"], inputs["importance"]
    best, reference = (block_errors(name, rows, importance, search) for search in ("best", "reference"))
    assert (best <= reference).all()
    assert best.sum() < reference.sum()


@pytest.mark.parametrize(("name", "n"), SYMMETRIC.items())
def test_symmetric_blocks_are_optimal(name, n):
    """Up to what float16 does to the scale: a relative change of 2^-11 costs 2^-22 of the block's energy."""
    rng = np.random.default_rng(9)
    rows = kinds_of_rows(rng, 32)[:24]
    importance = rng.gamma(0.5, 1, 32).astype(np.float32)
    found = block_errors(name, rows, importance, "best")
    for x, error in zip(rows, found, strict=True):
        energy = (importance.astype(np.float64) * x.astype(np.float64) ** 2).sum()
        assert error <= best_symmetric_error(x, importance, n) + 2.0**-22 * energy


@pytest.mark.parametrize("name", NAMES)
def test_bytes_depend_on_the_row_alone(name):
    rng = np.random.default_rng(5)
    rows = kinds_of_rows(rng)
    importance = rng.gamma(0.5, 1, 512).astype(np.float32)
    together = quantize_rows(rows, name, importance, "best")
    order = rng.permutation(len(rows))
    np.testing.assert_array_equal(quantize_rows(rows[order], name, importance, "best", threads=1), together[order])
    np.testing.assert_array_equal(quantize_rows(rows[7:8], name, importance, "best")[0], together[7])

"""search="best" of the linear types: in no block above reference, and near the optimum that brute force finds."""

import numpy as np
import pytest

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from tests.formats.test_robustness import awkward_importance, awkward_rows
from tests.naive_best import (
    best_affine_error,
    best_affine_super_block_error,
    best_symmetric_error,
    best_symmetric_super_block_error,
)

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


def uneven_rows(n_rows, n_cols, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_t(6, (n_rows, n_cols)).astype(np.float32), rng.gamma(1, 1, n_cols).astype(np.float32)


@pytest.mark.parametrize(("name", "max_code", "bound"), [("Q4_1", 15, 1.02), ("Q5_1", 31, 1.06)])
def test_affine_blocks_are_near_the_best_of_many_starts(name, max_code, bound):
    rows, importance = uneven_rows(12, 32, 21)
    found = block_errors(name, rows, importance, "best")
    assert found.sum() <= bound * sum(best_affine_error(x, importance, max_code, 24, 20) for x in rows)


@pytest.mark.parametrize(("name", "n", "n_scales", "bound"), [("Q3_K", 4, 32, 1.01), ("Q6_K", 32, 128, 1.04)])
def test_symmetric_super_blocks_are_near_the_best_of_all_integers(name, n, n_scales, bound):
    rows, importance = uneven_rows(3, 256, 22)
    found = block_errors(name, rows, importance, "best")
    least = [best_symmetric_super_block_error(x, importance, n, n_scales, 150) for x in rows]
    assert found.sum() <= bound * sum(least)


def test_affine_super_blocks_are_near_the_best_of_all_integers():
    rows, importance = uneven_rows(3, 256, 23)
    found = block_errors("Q2_K", rows, importance, "best")
    d = quantize_rows(rows, "Q2_K", importance, "best")[:, 80:].copy().view(np.float16).astype(np.float64)
    least = [
        best_affine_super_block_error(x, importance, (16, 3, 15), near, 8) for x, near in zip(rows, d, strict=True)
    ]
    assert found.sum() <= 1.05 * sum(least)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_depend_on_the_row_alone(name):
    rng = np.random.default_rng(5)
    rows = kinds_of_rows(rng)
    importance = rng.gamma(0.5, 1, 512).astype(np.float32)
    together = quantize_rows(rows, name, importance, "best")
    order = rng.permutation(len(rows))
    np.testing.assert_array_equal(quantize_rows(rows[order], name, importance, "best", threads=1), together[order])
    np.testing.assert_array_equal(quantize_rows(rows[7:8], name, importance, "best")[0], together[7])

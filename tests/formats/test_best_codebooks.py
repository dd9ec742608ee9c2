"""search="best" of the codebook types."""

import numpy as np
import pytest

from quanttool.formats import available_formats, block_format, dequantize_rows, quantize_rows
from tests import naive_best_codebooks as naive
from tests.formats.test_robustness import awkward_importance, awkward_rows

TYPES = list(naive.TYPES)


def block_errors(name, rows, importance, search):
    """Weighted squared errors f64 [n_rows, n_blocks] of what the bytes stand for."""
    values = dequantize_rows(quantize_rows(rows, name, importance, search), name, rows.shape[1])
    assert np.isfinite(values).all()
    weighted = importance.astype(np.float64) * (values.astype(np.float64) - rows) ** 2
    return weighted.reshape(len(rows), -1, 256).sum(axis=2)


def heavy_tailed(n_rows, n_cols, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_t(5, (n_rows, n_cols)).astype(np.float32), rng.gamma(0.5, 1, n_cols).astype(np.float32)


@pytest.mark.parametrize("name", TYPES)
def test_no_block_is_worse(name, golden):
    """Golden rows and rows of all kinds that break searches, with importance that does."""
    rng = np.random.default_rng(1)
    inputs = np.load(golden / "formats" / "input.npz")
    cases = [(inputs["rows"], inputs["importance"])]
    cases += [(awkward_rows(rng), importance) for importance in awkward_importance(rng)]
    for rows, importance in cases:
        reference, best = (block_errors(name, rows, importance, search) for search in ("reference", "best"))
        assert (best <= reference).all(), np.argwhere(best > reference)[0]


@pytest.mark.parametrize("name", TYPES)
def test_the_error_falls_in_every_block(name):
    """Without the help of a comparison: also the blocks that are not replaced would show here."""
    rows, importance = heavy_tailed(24, 512, seed=2)
    reference, best = (block_errors(name, rows, importance, search) for search in ("reference", "best"))
    assert (best < reference).all()
    assert best.sum() < 0.92 * reference.sum()


@pytest.mark.parametrize("name", TYPES)
def test_near_the_least_error_there_is(name):
    """Given d nothing can be better, and no other d near it is better by much."""
    rows, importance = heavy_tailed(1, 256, seed=3)
    data = quantize_rows(rows, name, importance, "best")
    found = block_errors(name, rows, importance, "best").item()
    d = np.float64(d_of(name, data[0]))
    assert found == pytest.approx(naive.block_error(name, rows[0], importance, d), rel=1e-4)
    others = [naive.block_error(name, rows[0], importance, d * factor) for factor in (0.8, 0.9, 0.97, 1.03, 1.1, 1.25)]
    assert found <= 1.01 * min(others)


def d_of(name, block):
    """d of a block's bytes: in front, but for IQ1_M, where four numbers each have a quarter on top."""
    if name != "IQ1_M":
        return block[:2].view(np.float16)[0]
    quarters = block[48:].view(np.uint16) >> 12
    return (quarters << np.array([0, 4, 8, 12], np.uint16)).sum(dtype=np.uint16).view(np.float16)


def test_iq3_s_steps_on_after_zeros():
    """The flaw of the reference (see test_codebooks) is not repeated."""
    rows = np.zeros((1, 256), np.float32)
    rows[0, 32:64] = np.linspace(-3, 3, 32)
    importance = np.ones(256, np.float32)
    values = dequantize_rows(quantize_rows(rows, "IQ3_S", importance, "best"), "IQ3_S", 256)[0]
    assert np.abs(values[32:64] - rows[0, 32:64]).max() < 0.7
    assert np.abs(np.delete(values, np.s_[32:64])).max() < 0.1


@pytest.mark.parametrize("name", TYPES)
def test_bytes_depend_on_the_row_alone(name):
    rng = np.random.default_rng(4)
    rows = (rng.standard_normal((37, 512)) * rng.choice([0, 1e-3, 1], (37, 1))).astype(np.float32)
    importance = rng.gamma(0.5, 1, 512).astype(np.float32)
    together = quantize_rows(rows, name, importance, "best", threads=1)
    order = rng.permutation(37)
    np.testing.assert_array_equal(quantize_rows(rows[order], name, importance, "best", threads=2), together[order])
    np.testing.assert_array_equal(quantize_rows(rows[5:6], name, importance, "best")[0], together[5])


@pytest.mark.parametrize("name", TYPES)
def test_without_importance_best_is_reference(name):
    if block_format(name).importance == "required":
        return
    rows = np.random.default_rng(5).standard_normal((2, 512)).astype(np.float32)
    np.testing.assert_array_equal(quantize_rows(rows, name, search="best"), quantize_rows(rows, name))


def test_types_with_best_are_listed():
    """So that no type gets the search without these tests."""
    named = [n for n in available_formats() if type(block_format(n)).__module__ == "quanttool.formats.i_quants"]
    assert sorted(named) == sorted(TYPES)
    assert all(block_format(name).has_best for name in TYPES)

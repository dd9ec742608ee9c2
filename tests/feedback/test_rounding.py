"""Rounding with error feedback: against the textbook form of GPTQ, and against rounding without it."""

import numpy as np
import pytest

from quanttool.feedback.rounding import Feedback, damped
from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.formats.grid import levels


def inputs(n_rows: int, n_cols: int, seed: int = 3) -> np.ndarray:
    """Rows whose channels are correlated and of different size."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_cols, n_cols)) / np.sqrt(n_cols) * np.linspace(0.2, 2, n_cols)
    return (rng.standard_normal((n_rows, n_cols)) @ mixing).astype(np.float32)


def loss(values, weights, h) -> float:
    e = (values - weights).astype(np.float64)
    return float(np.einsum("ri,ij,rj->", e, h, e))


def gptq(weights, h, tables, order) -> np.ndarray:
    """arXiv 2210.17323, algorithm 1, without blocks: the inverse's Cholesky factor, errors pushed into what is left.

    tables: f32 [n_rows, n_cols, n_levels]
    """
    inverse = np.linalg.inv(h[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left = weights[:, order].astype(np.float64)
    values = np.empty_like(left)
    for j, column in enumerate(order):
        nearest = np.abs(tables[:, column] - left[:, j : j + 1]).argmin(axis=1)
        values[:, j] = tables[np.arange(len(left)), column, nearest]
        left[:, j:] -= np.outer((left[:, j] - values[:, j]) / upper[j, j], upper[j, j:])
    out = np.empty_like(values)
    out[:, order] = values
    return out


@pytest.mark.parametrize("name", ["Q4_0", "IQ4_NL", "Q2_K"])
def test_one_super_block_is_what_gptq_makes_of_it(name):
    x = inputs(1000, 256)
    h = damped(x.T @ x / len(x))
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((40, 256)).astype(np.float32)
    fmt = block_format(name)
    tables = np.repeat(levels(fmt, quantize_rows(weights, name, importance), 256), 16, axis=1)
    expected = gptq(weights, h, tables, np.argsort(-importance, kind="stable"))
    data = Feedback(h, passes=0).round(weights, fmt, importance, "reference")
    assert np.array_equal(dequantize_rows(data, name, 256), expected)


@pytest.mark.parametrize(
    "name", ["Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_K", "IQ3_K", "IQ4_KS", "IQ5_KS"]
)
def test_the_loss_falls_by_a_third_and_more_passes_lower_it_further(name):
    x = inputs(3000, 768)
    h = damped(x.T @ x / len(x))
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((70, 768)).astype(np.float32)
    plain = quantize_rows(weights, name, importance)
    fed = [Feedback(h, n).round(weights, block_format(name), importance, "reference") for n in (0, 1)]
    losses = [loss(dequantize_rows(data, name, 768), weights, h) for data in (plain, *fed)]
    assert losses[1] < 0.67 * losses[0]
    assert losses[2] < losses[1]


def test_a_channel_without_input_keeps_its_weights():
    x = inputs(500, 256)
    x[:, 17] = 0
    weights = np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)
    data = Feedback(damped(x.T @ x / len(x)), 0).round(weights, block_format("Q8_0"), np.ones(256), "reference")
    assert np.abs(dequantize_rows(data, "Q8_0", 256)[:, 17] - weights[:, 17]).max() < 0.05

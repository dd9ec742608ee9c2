"""Rounding with error feedback: against the textbook form of GPTQ, and against rounding without it."""

import numpy as np
import pytest

from quanttool.feedback.rounding import Feedback, damped
from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.formats.grid import levels
from quanttool.formats.points import n_sign_bits, scales_and_shifts
from tests.naive_feedback import gptq, gptq_points, gptq_sequences, gptq_words

VECTORS = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ2_KL"]


def inputs(n_rows: int, n_cols: int, seed: int = 3) -> np.ndarray:
    """Rows whose channels are correlated and of different size."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_cols, n_cols)) / np.sqrt(n_cols) * np.linspace(0.2, 2, n_cols)
    return (rng.standard_normal((n_rows, n_cols)) @ mixing).astype(np.float32)


def covariance(x: np.ndarray) -> np.ndarray:
    return damped(x.T @ x / len(x), 0.03)  # little, so that columns are strongly coupled


def loss(values, weights, h) -> float:
    e = (values - weights).astype(np.float64)
    return float(np.einsum("ri,ij,rj->", e, h, e))


@pytest.mark.parametrize("name", ["Q4_0", "IQ4_NL", "Q2_K"])
def test_one_super_block_is_what_gptq_makes_of_it(name):
    x = inputs(1000, 256)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((40, 256)).astype(np.float32)
    fmt = block_format(name)
    tables = np.repeat(levels(fmt, quantize_rows(weights, name, importance), 256), 16, axis=1)
    expected = gptq(weights, h, tables, np.argsort(-importance, kind="stable"))
    data = Feedback(h, passes=0).round(weights, fmt, importance, "reference")
    assert np.array_equal(dequantize_rows(data, name, 256), expected)


@pytest.mark.parametrize("name", VECTORS)
def test_groups_of_one_super_block_take_the_points_that_gptq_finds(name):
    x = inputs(1000, 256)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((6, 256)).astype(np.float32)
    fmt = block_format(name)
    table, bits = fmt.point_values, n_sign_bits(fmt)
    step = 8 if bits == 7 else table.shape[1]
    order = np.argsort(-importance.reshape(-1, step).mean(axis=1), kind="stable")
    order = np.arange(256).reshape(-1, step)[order].ravel()
    scales, shifts = scales_and_shifts(fmt, quantize_rows(weights, name, importance), 256)
    per_column = (np.repeat(part, table.shape[1], axis=1) for part in (scales, shifts))
    expected = gptq_points(weights, h, table, *per_column, order, bits)
    data = Feedback(h, passes=0).round(weights, fmt, importance, "reference")
    assert np.allclose(dequantize_rows(data, name, 256), expected, atol=1e-5)


def test_words_take_the_levels_that_gptq_finds_with_even_parity():
    x = inputs(1000, 256)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((6, 256)).astype(np.float32)
    fmt = block_format("IQ4_KSS")
    words = np.arange(256).reshape(8, 2, 8, 2).transpose(0, 2, 3, 1).reshape(64, 4)  # 0 16 1 17, 2 18 3 19...
    order = words[np.argsort(-importance[words].mean(axis=1), kind="stable")].ravel()
    data = Feedback(h, passes=0).round(weights, fmt, importance, "reference")
    tables = np.repeat(levels(fmt, data, 256), 16, axis=1)
    assert np.allclose(dequantize_rows(data, "IQ4_KSS", 256), gptq_words(weights, h, tables, order), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "Q4_0",
        "Q5_1",
        "Q8_0",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q6_K",
        "IQ4_XS",
        "IQ2_K",
        "IQ3_K",
        "IQ4_KS",
        "IQ5_KS",
        "MXFP4",
        "NVFP4",
        "Q1_0",
        *VECTORS,
    ],
)
def test_the_loss_falls_by_a_third_and_more_passes_lower_it_further(name):
    x = inputs(3000, 768)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((70, 768)).astype(np.float32)
    plain = quantize_rows(weights, name, importance)
    fed = [Feedback(h, n).round(weights, block_format(name), importance, "reference") for n in (0, 1)]
    losses = [loss(dequantize_rows(data, name, 768), weights, h) for data in (plain, *fed)]
    assert losses[1] < 0.67 * losses[0]
    assert losses[2] < losses[1]


@pytest.mark.parametrize("name", ["Q4_0", "Q2_K", "IQ3_S"])
def test_a_further_pass_finds_other_scales_and_raises_the_loss_of_no_row(name):
    x = inputs(3000, 512)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((40, 512)).astype(np.float32)
    fmt = block_format(name)
    made = [Feedback(h, n).round(weights, fmt, importance, "reference") for n in (0, 1, 2)]
    errors = [(dequantize_rows(data, name, 512) - weights).astype(np.float64) for data in made]
    losses = [np.einsum("ri,ij,rj->r", e, h, e) for e in errors]
    assert (losses[1] <= losses[0] * (1 + 1e-5)).all() and (losses[2] <= losses[1] * (1 + 1e-5)).all()
    find = scales_and_shifts if fmt.codes is None else lambda *of: (levels(*of),)
    before, after = (find(fmt, data, 512)[0].reshape(40, -1) for data in made[:2])
    other = (before != after).any(axis=1)
    assert other.sum() > 10
    assert losses[1][other].sum() < losses[0][other].sum()


def test_a_trellis_comes_as_close_as_trying_all_its_sequences():
    """But for those that its search passes over."""
    x = inputs(1000, 256)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((4, 256)).astype(np.float32)
    fmt = block_format("IQ1_KT")
    order = np.argsort(-importance.reshape(-1, 8).mean(axis=1), kind="stable")
    order = np.arange(256).reshape(-1, 8)[order].ravel()
    data = Feedback(h, passes=0).round(weights, fmt, importance, "reference")
    scales = np.repeat(fmt.scales_and_tables(data)[0], 8, axis=1)
    exhaustive = gptq_sequences(weights, h, fmt.tables[0], scales, order)
    ratio = loss(dequantize_rows(data, "IQ1_KT", 256), weights, h) / loss(exhaustive, weights, h)
    assert 0.97 < ratio < 1.03


@pytest.mark.parametrize("name", ["IQ1_KT", "IQ2_KT", "IQ3_KT", "IQ4_KT"])
def test_trellises_lower_the_loss_too(name):
    x = inputs(3000, 512)
    h = covariance(x)
    importance = np.diagonal(h).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    data = [
        quantize_rows(weights, name, importance),
        Feedback(h, 0).round(weights, block_format(name), importance, "reference"),
    ]
    losses = [loss(dequantize_rows(one, name, 512), weights, h) for one in data]
    assert losses[1] < 0.67 * losses[0]


def test_a_channel_without_input_keeps_its_weights():
    x = inputs(500, 256)
    x[:, 17] = 0
    weights = np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)
    data = Feedback(covariance(x), 0).round(weights, block_format("Q8_0"), np.ones(256), "reference")
    assert np.abs(dequantize_rows(data, "Q8_0", 256)[:, 17] - weights[:, 17]).max() < 0.05


def test_woven_rows_are_those_of_their_base_type():
    x = inputs(500, 256)
    weights = np.random.default_rng(1).standard_normal((8, 256)).astype(np.float32)
    feedback = Feedback(covariance(x), 0)
    values = [
        dequantize_rows(feedback.round(weights, block_format(name), np.ones(256), "reference"), name, 256)
        for name in ("IQ2_S", "IQ2_S_R4")
    ]
    assert np.array_equal(*values)

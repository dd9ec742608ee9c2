"""Log-sum-exp and divergence of rows of logits, against numpy in float64; in parts, too."""

from itertools import pairwise

import numpy as np
import pytest

from quanttool.kernels.log_softmax import add_divergence, add_logits, add_overlap


def cut(n, n_parts):
    edges = np.linspace(0, n, n_parts + 1).astype(int)
    return [slice(*pair) for pair in pairwise(edges)]


def statistics(logits, n_parts=1):
    highest, total, top = np.full(len(logits), -np.inf), np.zeros(len(logits)), np.zeros(len(logits), np.int32)
    for tokens in cut(logits.shape[1], n_parts):
        add_logits(np.ascontiguousarray(logits[:, tokens]), tokens.start, highest, total, top)
    return highest + np.log(total), top


def divergences(base, other, n_parts=1, floor=-np.inf):
    highest, total, top = np.full(len(base), -np.inf), np.zeros(len(base)), np.zeros(len(base), np.int32)
    shift, weighted, mass = np.full(len(base), -np.inf), np.zeros(len(base)), np.zeros(len(base))
    for tokens in cut(base.shape[1], n_parts):
        pair = [np.ascontiguousarray(logits[:, tokens]) for logits in (base, other)]
        add_logits(pair[0], tokens.start, highest, total, top)
        add_divergence(*pair, floor, highest, shift, weighted, mass)
    base_lse = highest + np.log(total)
    return np.exp(shift - base_lse) * (weighted + mass * (statistics(other)[0] - base_lse))


def draw(scale, seed=1):
    return np.random.default_rng(seed).standard_normal((5, 1003), dtype=np.float32) * np.float32(scale)


@pytest.mark.parametrize("n_parts", [1, 7])
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_log_sum_exp(scale, n_parts):
    logits = draw(scale)
    lse, top = statistics(logits, n_parts)
    np.testing.assert_allclose(lse, np.logaddexp.reduce(logits.astype(np.float64), axis=1), rtol=1e-14)
    np.testing.assert_array_equal(top, logits.argmax(axis=1))


def log_softmax(logits):
    return logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1)[:, None]


@pytest.mark.parametrize("n_parts", [1, 7])
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_divergence(scale, n_parts):
    base, other = draw(scale), draw(scale, seed=2)
    log_p, log_q = log_softmax(base), log_softmax(other)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    # log-sum-exps are about 10 times the scale
    np.testing.assert_allclose(divergences(base, other, n_parts), expected, rtol=1e-12, atol=5e-14)


def test_divergence_above_a_floor():
    base, other = draw(3), draw(3, seed=2)
    log_p, log_q = log_softmax(base), log_softmax(other)
    expected = np.where(base > 1, np.exp(log_p) * (log_p - log_q), 0).sum(axis=1)
    np.testing.assert_allclose(divergences(base, other, 3, floor=1.0), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_parts", [1, 7])
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_overlap(scale, n_parts):
    base, other = draw(scale), draw(scale, seed=2)
    overlap = np.zeros(5)
    for tokens in cut(1003, n_parts):
        pair = [np.ascontiguousarray(logits[:, tokens]) for logits in (base, other)]
        add_overlap(pair[0], statistics(base)[0], pair[1], statistics(other)[0], overlap)
    expected = np.exp(np.minimum(log_softmax(base), log_softmax(other))).sum(axis=1)
    np.testing.assert_allclose(overlap, expected, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_the_first_of_equal_logits_is_the_top(n_parts):
    assert statistics(np.float32([[1, 3, 2, 3]]), n_parts)[1] == [1]


def test_minus_infinity_counts_as_nothing():
    base, other = draw(1), draw(1, seed=2)
    base[:, 7] = -np.inf
    without = divergences(np.delete(base, 7, axis=1), np.delete(other, 7, axis=1))
    log_q7 = other[:, 7].astype(np.float64) - statistics(other)[0]
    np.testing.assert_allclose(divergences(base, other), without - np.log1p(-np.exp(log_q7)), rtol=1e-12)


def test_not_a_number_shows():
    logits = draw(1)
    logits[1, 3] = np.nan
    logits[3, 900] = -np.float32(np.nan)
    np.testing.assert_array_equal(np.isnan(statistics(logits)[0]), [False, True, False, True, False])
    np.testing.assert_array_equal(np.isnan(statistics(logits, 5)[0]), [False, True, False, True, False])
    np.testing.assert_array_equal(np.isnan(divergences(logits, draw(1), 5)), [False, True, False, True, False])


def test_equal_rows_diverge_by_exactly_nothing():
    assert (divergences(draw(3), draw(3)) == 0).all() and (divergences(draw(3), draw(3), 7) == 0).all()


def test_parts_that_a_model_forbids():
    logits = draw(1)
    logits[:, :300] = -np.inf
    expected = statistics(np.ascontiguousarray(logits[:, 300:]))
    lse, top = statistics(logits, 7)
    np.testing.assert_allclose(lse, expected[0], rtol=1e-14)
    np.testing.assert_array_equal(top, expected[1] + 300)

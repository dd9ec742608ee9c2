"""Means and uncertainties against the sums that llama-perplexity takes."""

import numpy as np
import pytest

from quanttool.evaluate import statistics
from tests import naive_evaluate as naive

A, B = np.random.default_rng(1).gamma(2.0, size=(2, 300))
B = B + A


def test_mean_and_its_uncertainty():
    assert statistics.mean(A) == pytest.approx(naive.mean_and_uncertainty(A), rel=1e-12)
    assert statistics.mean(A[:10]).uncertainty == 0
    assert statistics.mean(A[:11]).uncertainty > 0
    assert statistics.mean(np.full(50, 0.1)) == pytest.approx((0.1, 0), abs=1e-16)


def test_a_large_common_offset_does_not_eat_the_uncertainty():
    assert statistics.mean(A + 1e7).uncertainty == pytest.approx(statistics.mean(A).uncertainty, rel=1e-6)


def test_covariance_and_correlation():
    assert statistics.covariance(A, B) == pytest.approx(naive.covariance(A, B), rel=1e-12)
    assert statistics.correlation(A, B) == pytest.approx(np.corrcoef(A, B)[0, 1], rel=1e-12)
    assert statistics.correlation(A, np.ones(300)) == 0


def test_difference_knows_that_the_series_are_paired():
    (_, a), (_, b) = naive.mean_and_uncertainty(A), naive.mean_and_uncertainty(B)
    expected = (a * a + b * b - 2 * naive.covariance(A, B)) ** 0.5
    assert statistics.difference(B, A) == pytest.approx((B.mean() - A.mean(), expected), rel=1e-9)


def test_propagation_through_exp_and_root():
    estimate = statistics.Estimate(2.0, 0.01)
    assert statistics.exponential(estimate) == pytest.approx((np.exp(2), np.exp(2) * 0.01))
    value, uncertainty = statistics.root(estimate)
    assert (value + uncertainty) ** 2 == pytest.approx(2.01, abs=1e-4)
    assert statistics.root(statistics.Estimate(0.0, 0.0)) == (0, 0)


def test_share():
    hits = np.arange(100) < 30
    assert statistics.share(hits) == pytest.approx((0.3, np.sqrt(0.3 * 0.7 / 99)))
    assert statistics.share(hits[:1]) == (1, 0)

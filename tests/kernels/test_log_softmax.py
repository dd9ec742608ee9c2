"""Log-sum-exp and divergence of rows of logits, against numpy in float64."""

import numpy as np
import pytest

from quanttool.kernels.log_softmax import kl_divergence, log_sum_exp


def statistics(logits):
    lse, top = np.empty(len(logits)), np.empty(len(logits), np.int32)
    log_sum_exp(logits, lse, top)
    return lse, top


def divergences(base, other):
    out = np.empty(len(base))
    kl_divergence(base, statistics(base)[0], other, statistics(other)[0], out)
    return out


def draw(scale, seed=1):
    return np.random.default_rng(seed).standard_normal((5, 1003), dtype=np.float32) * np.float32(scale)


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_log_sum_exp(scale):
    logits = draw(scale)
    lse, top = statistics(logits)
    np.testing.assert_allclose(lse, np.logaddexp.reduce(logits.astype(np.float64), axis=1), rtol=1e-14)
    np.testing.assert_array_equal(top, logits.argmax(axis=1))


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_divergence(scale):
    base, other = draw(scale), draw(scale, seed=2)
    log_p, log_q = (x - np.logaddexp.reduce(x.astype(np.float64), axis=1)[:, None] for x in (base, other))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(divergences(base, other), expected, rtol=1e-12, atol=5e-14)  # log-sum-exps are about 10


def test_the_first_of_equal_logits_is_the_top():
    assert statistics(np.float32([[1, 3, 2, 3]]))[1] == [1]


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
    np.testing.assert_array_equal(np.isnan(divergences(logits, draw(1))), [False, True, False, True, False])


def test_equal_rows_diverge_by_exactly_nothing():
    assert (divergences(draw(3), draw(3)) == 0).all()

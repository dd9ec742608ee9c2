"""Divergence between models: each statistic against a slow twin, and what must hold exactly."""

import numpy as np
import pytest

from quanttool.errors import ModelError, UsageError
from quanttool.evaluate import ModelPredictions, compare, predictions
from tests import naive_evaluate as naive
from tests.evaluate.fake import FakeModel, hidden_states, targets

SHAPE = (4, 30)
N = 120


@pytest.fixture(scope="module")
def pair():
    return FakeModel(scale=2), FakeModel(seed=9, scale=2)


def run(base, *models, states=None, overlap=False):
    hidden = hidden_states(N)
    states = states or [hidden + 0.1 * hidden_states(N, seed=5 + i) for i in range(len(models))]
    others = [ModelPredictions(model, own) for model, own in zip(models, states, strict=True)]
    return hidden, states, compare(ModelPredictions(base, hidden), others, targets(SHAPE), overlap)


def expected_statistics(base, other, hidden, states):
    """f64 [4, *SHAPE]: nll of base, nll, kld, same top of each token."""
    rows = zip(base.output_logits(hidden), other.output_logits(states), targets(N), strict=True)
    return np.array([naive.token_statistics(*row) for row in rows]).T.reshape(4, *SHAPE)


def test_token_by_token(pair):
    base, other = pair
    hidden, (states,), (found,) = run(base, other)
    expected = expected_statistics(base, other, hidden, states)
    for name, values in zip(("nll_base", "nll", "kld", "same_top"), expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-12, atol=1e-12, err_msg=name)


def test_several_models_in_one_go_equal_each_alone(pair):
    base, other = pair
    _, states, together = run(base, other, base)
    for model, own, result in zip((other, base), states, together, strict=True):
        _, _, (alone,) = run(base, model, states=[own])
        assert np.array_equal(alone.kld, result.kld) and np.array_equal(alone.nll, result.nll)


def test_a_model_does_not_diverge_from_itself_at_all(pair):
    _, _, (same,) = run(pair[0], pair[0], states=[hidden_states(N)])
    assert not same.kld.any() and same.same_top.all() and not same.delta_p.any()
    assert same.mean_kld == (0, 0) and same.log_ppl_ratio == (0, 0) and same.ppl_ratio == (1, 0)


def test_small_divergences_keep_their_digits(pair):
    """Hidden states changed by 0.1 %: with float32 probabilities a divergence of 1e-7 would be noise."""
    base, hidden = pair[0], hidden_states(N)
    near = hidden * np.float32(1.001)
    _, _, (found,) = run(base, base, states=[near])
    expected = expected_statistics(base, base, hidden, near)[2]
    assert 0 < expected.min() < 1e-6
    np.testing.assert_allclose(found.kld, expected, rtol=1e-8, atol=2e-14)


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_extreme_logits(scale):
    base, other = FakeModel(scale=scale), FakeModel(seed=9, scale=scale)
    hidden, (states,), (found,) = run(base, other)
    np.testing.assert_allclose(found.kld, expected_statistics(base, other, hidden, states)[2], rtol=1e-12)


def test_tokens_that_both_forbid_count_as_nothing():
    base = FakeModel(scale=2)
    logits = base.output_logits
    base.output_logits = lambda hidden: np.where(np.arange(50) == 3, np.float32(-np.inf), logits(hidden))
    _, _, (found,) = run(base, base, states=[hidden_states(N, seed=8)])
    assert np.isfinite(found.kld).all() and (found.kld > 0).all()


@pytest.mark.parametrize(("rows", "tokens"), [(7, 50), (7, 16), (1, 1)])
def test_rows_and_tokens_at_a_time_make_no_difference(pair, monkeypatch, rows, tokens):
    *_, (whole,) = run(*pair, overlap=True)
    monkeypatch.setattr(predictions, "TOKENS_MULTIPLE", 1)
    monkeypatch.setattr(predictions, "WEIGHT_BYTES", tokens * 2 * 4 * pair[0].n_embd)
    monkeypatch.setattr(predictions, "LOGIT_BYTES", rows * 4 * tokens)
    *_, (parts,) = run(*pair, overlap=True)
    for name in ("nll_base", "nll", "kld", "overlap"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6, err_msg=name)
    assert np.array_equal(parts.same_top, whole.same_top)


def test_overlap(pair):
    hidden, (states,), (found,) = run(*pair, overlap=True)
    rows = zip(pair[0].output_logits(hidden), pair[1].output_logits(states), strict=True)
    expected = np.array([naive.overlap(*row) for row in rows]).reshape(SHAPE)
    np.testing.assert_allclose(found.overlap, expected, rtol=1e-12)
    assert np.array_equal(found.first_chunks(2).overlap, found.overlap[:2])


def test_statistics(pair):
    *_, (d,) = run(*pair)
    nll, nll_base, kld = d.nll.ravel(), d.nll_base.ravel(), d.kld.ravel()
    (q, dq), (b, db) = naive.mean_and_uncertainty(nll), naive.mean_and_uncertainty(nll_base)
    together = naive.covariance(nll, nll_base)
    assert d.ppl == pytest.approx((np.exp(q), np.exp(q) * dq))
    assert d.ppl_base == pytest.approx((np.exp(b), np.exp(b) * db))
    assert d.log_ppl_correlation == pytest.approx(together / (dq * db))
    ratio = np.sqrt(dq**2 + db**2 - 2 * together)
    assert d.log_ppl_ratio == pytest.approx((q - b, ratio))
    assert d.ppl_ratio == pytest.approx((np.exp(q - b), np.exp(q - b) * ratio))
    spread = np.sqrt((np.exp(q) * dq) ** 2 + (np.exp(b) * db) ** 2 - 2 * np.exp(q) * np.exp(b) * together)
    assert d.ppl_difference == pytest.approx((np.exp(q) - np.exp(b), spread))
    assert d.mean_kld == pytest.approx(naive.mean_and_uncertainty(kld))
    delta = np.exp(-nll) - np.exp(-nll_base)
    assert d.mean_delta_p == pytest.approx(naive.mean_and_uncertainty(delta))
    square, spread = naive.mean_and_uncertainty(delta**2)
    assert d.rms_delta_p == pytest.approx((np.sqrt(square), 0.5 / np.sqrt(square) * spread))
    same = d.same_top.mean()
    assert d.same_top_share == pytest.approx((same, np.sqrt(same * (1 - same) / (N - 1))))
    for values, quantiles in ((kld, d.kld_quantiles()), (delta, d.delta_p_quantiles())):
        for fraction, value in quantiles.items():
            assert value == pytest.approx(naive.quantile(values, fraction), rel=1e-12)


def test_prefixes_are_taken(pair):
    *_, (d,) = run(*pair)
    assert np.array_equal(d.first_chunks(2).same_top, d.same_top[:2])


def test_different_vocabularies_and_nan_are_refused(pair):
    with pytest.raises(UsageError, match="base model has 50 tokens, the other 60"):
        run(pair[0], FakeModel(n_vocab=60))
    broken = FakeModel()
    broken.output[0, 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        run(pair[0], broken)

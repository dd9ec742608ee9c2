"""Negative log-likelihoods and perplexity, against a slow twin and llama-perplexity's figures."""

import numpy as np
import pytest

from quanttool.errors import ModelError
from quanttool.evaluate import Perplexity, negative_log_likelihood, predictions, split
from quanttool.models import load_model
from quanttool.tokenizer import load_tokenizer
from tests import naive_evaluate as naive
from tests.evaluate.fake import FakeModel, hidden_states, targets


def naive_nll(model, hidden, target):
    return [-naive.log_softmax(row)[t] for row, t in zip(model.output_logits(hidden), target, strict=True)]


@pytest.mark.parametrize("scale", [1, 100, 1e4])
def test_likelihoods(scale):
    model, hidden, target = FakeModel(scale=scale), hidden_states(40), targets(40)
    expected = naive_nll(model, hidden, target)
    np.testing.assert_allclose(negative_log_likelihood(model, hidden, target), expected, rtol=1e-13, atol=1e-13)


def test_rows_at_a_time_make_no_difference(monkeypatch):
    model, hidden, target = FakeModel(), hidden_states(40), targets(40)
    whole = negative_log_likelihood(model, hidden, target)
    monkeypatch.setattr(predictions, "LOGIT_BYTES", 3 * 4 * model.n_vocab)
    np.testing.assert_allclose(negative_log_likelihood(model, hidden, target), whole, atol=1e-6)
    monkeypatch.setattr(predictions, "LOGIT_BYTES", 1)
    np.testing.assert_allclose(negative_log_likelihood(model, hidden, target), whole, atol=1e-6)


def test_a_forbidden_token_costs_nothing_and_nan_is_an_error():
    model, hidden, target = FakeModel(), hidden_states(4), np.zeros(4, np.int32)
    bias = np.zeros(model.n_vocab, np.float32)
    logits = model.output_logits
    model.output_logits = lambda h: logits(h) + bias
    bias[7] = -np.inf
    expected = [-naive.log_softmax(np.delete(row, 7))[0] for row in logits(hidden)]
    np.testing.assert_allclose(negative_log_likelihood(model, hidden, target), expected, rtol=1e-13)
    bias[7] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        negative_log_likelihood(model, hidden, target)
    bias[7] = np.inf
    with pytest.raises(ModelError, match="not finite"):
        negative_log_likelihood(model, hidden, target)


def test_perplexity_and_its_uncertainty():
    nll = np.random.default_rng(4).gamma(3.0, size=(5, 20))
    mean, uncertainty = naive.mean_and_uncertainty(nll.ravel())
    assert Perplexity(nll).estimate == pytest.approx((np.exp(mean), np.exp(mean) * uncertainty), rel=1e-12)
    expected = [np.exp(nll[: i + 1].mean()) for i in range(5)]
    np.testing.assert_allclose(Perplexity(nll).running(), expected, rtol=1e-12)


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large():
    model = FakeModel(scale=0)
    nll = negative_log_likelihood(model, hidden_states(20), targets(20))
    assert Perplexity(nll[None]).estimate == pytest.approx((50, 0), abs=1e-9)


def test_llama_perplexity_figures(shared, smollm2_768):
    """The first two chunks of wiki.test.raw; llama-perplexity printed 12.9544 and 21.3722 for this very file."""
    text = (shared / "data" / "wiki.test.raw").read_text().removesuffix("\n")
    tokenizer, model = load_tokenizer(smollm2_768), load_model(smollm2_768)
    tokens = tokenizer.encode(text)
    assert len(tokens) == 303415
    chunks = split(tokens, 512, 2, bos_id=tokenizer.bos_id if tokenizer.add_bos else None)
    hidden = chunks.scored(model.hidden_states(chunks.tokens))
    nll = negative_log_likelihood(model, hidden, chunks.targets.ravel()).reshape(2, 255)
    np.testing.assert_allclose(Perplexity(nll).running(), [12.9544, 21.3722], atol=2e-4)

"""The model class for lm-evaluation-harness, against its own base class and against logits of whole texts."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.models import load_model
from tests.models import tiny
from tests.naive_evaluate import log_softmax


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    metadata, tensors = tiny.llama()
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", metadata | tiny.ascii_tokenizer(), tensors)


@pytest.fixture(scope="module")
def harness():
    pytest.importorskip("lm_eval.api.model", reason="needs lm-evaluation-harness")
    from quanttool import harness

    return harness


def request(*args):
    return SimpleNamespace(args=args)


def naive(model, tokens, n_scored):
    """Sum of log-likelihoods of the last tokens, and whether each of them is the likeliest."""
    rows = model.logits(tokens[:-1])[-n_scored:]
    targets = tokens[-n_scored:]
    total = sum(log_softmax(row)[target] for row, target in zip(rows, targets, strict=True))
    return total, all(int(np.argmax(row)) == target for row, target in zip(rows, targets, strict=True))


def test_loglikelihood(harness, path):
    lm, model = harness.QuanttoolLM(str(path)), load_model(path)
    bos, encode = lm.prefix_token_id, lm.tok_encode
    found = lm.loglikelihood([request("A red", " sun"), request("", "Dogs"), request("One ", "two three")])
    tokens = [encode("A red sun"), [bos, *encode("Dogs", add_special_tokens=False)], encode("One two three")]
    for (total, top), text, n in zip(found, tokens, (4, 4, 9), strict=True):  # spaces belong to continuations
        expected, is_top = naive(model, text, n)
        assert total == pytest.approx(expected, abs=1e-3) and top == is_top


def test_long_contexts_lose_their_beginning(harness, path):
    lm = harness.QuanttoolLM(str(path), max_length=8)
    tokens = lm.tok_encode("Six dry ducks sit on a log")
    ((total, _),) = lm.loglikelihood([request("Six dry ducks sit on a", " log")])
    assert total == pytest.approx(naive(load_model(path), tokens[-9:], 4)[0], abs=1e-3)
    with pytest.raises(UsageError, match="more than max_length=8"):
        lm.loglikelihood([request("A", " sentence of many tokens")])


def test_rolling(harness, path):
    model, text = load_model(path), "Six dry ducks sit."
    whole, cut = harness.QuanttoolLM(str(path)), harness.QuanttoolLM(str(path), max_length=10)
    tokens = whole.tok_encode(text, add_special_tokens=False)
    ((total),) = whole.loglikelihood_rolling([request(text)])
    assert total == pytest.approx(naive(model, [whole.prefix_token_id, *tokens], len(tokens))[0], abs=1e-3)
    windows = [
        [whole.prefix_token_id, *tokens[:10]],
        tokens[-11:],
    ]  # the last window is filled up with what precedes it
    expected = naive(model, windows[0], 10)[0] + naive(model, windows[1], len(tokens) - 10)[0]
    assert cut.loglikelihood_rolling([request(text)]) == [pytest.approx(expected, abs=1e-3)]


def test_what_it_refuses(harness, path):
    lm = harness.QuanttoolLM(str(path), batch_size=1)
    with pytest.raises(UsageError, match="quanttool generates none"):
        lm.generate_until([request("A", {})])
    with pytest.raises(UsageError, match="unknown model argument 'pretrained'"):
        harness.QuanttoolLM(str(path), pretrained="gpt2")


def test_the_registry_knows_it(harness):
    from lm_eval.api.registry import get_model

    assert get_model("quanttool") is harness.QuanttoolLM


def test_without_the_harness_the_error_says_what_to_install():
    code = "import sys; sys.modules['lm_eval'] = sys.modules['lm_eval.api'] = None; import quanttool.harness"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install quanttool[lm-eval]" in result.stderr

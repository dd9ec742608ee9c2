"""Every expert measured on every token: weighted means, from the parts of the model taken one by one."""

import subprocess
import sys

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.imatrix.collect import Collector
from quanttool.imatrix.hessian import HessianFile, HessianWriter
from quanttool.models import load_model
from tests.models import tiny

TOKENS = np.arange(60).reshape(3, 20)


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    script = shared / "models" / "make_tiny_models.py"
    subprocess.run([sys.executable, str(script), str(folder), "--only", "mixtral,glm4moe,gpt-oss"], check=True)
    return folder


def probabilities(name, logits):
    logits = logits.astype(np.float64)
    p = 1 / (1 + np.exp(-logits)) if name == "glm4moe" else np.exp(logits)
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("name", ["mixtral", "glm4moe", "gpt-oss"])
def test_weighted_means_of_all_tokens(name, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("quanttool.models.moe.SHOWN_ROWS", 32)  # two slabs
    model = load_model(folder / f"{name}.gguf")
    usual, all_of_them = Collector(model.file.tensors, 20), Collector(model.file.tensors, 20)
    hidden = model.hidden_states(TOKENS, usual)
    model.show_all_experts()
    with HessianWriter(tmp_path / "h", "full", model.weights(), model.file.tensors) as hessian:

        def observer(*seen):
            all_of_them(*seen)
            hessian(*seen)

        assert np.array_equal(model.hidden_states(TOKENS, observer), hidden)
    found, before = all_of_them.imatrix([], 3), usual.imatrix([], 3)
    for weight, entry in before.entries.items():
        if "_exps." not in weight:
            assert np.array_equal(found.entries[weight].sums_of_squares, entry.sums_of_squares)

    first = next(i for i, layer in enumerate(model.layers) if hasattr(layer.ffn, "n"))
    x = model.embed(TOKENS)
    for layer in model.layers[:first]:
        x = layer.ffn_step(layer.attention_step(x))
    layer = model.layers[first]
    x = layer.ffn_norm(layer.attention_step(x)).reshape(-1, model.n_embd)
    p = probabilities(name, layer.ffn.ffn_gate_inp(x))
    covariance = HessianFile(tmp_path / "h")
    for expert in range(layer.ffn.n):
        w = p[:, expert] / p[:, expert].sum()
        inner = layer.ffn._activated(x, expert).astype(np.float64)
        for weight, inputs in ((f"blk.{first}.ffn_up_exps.weight", x), (f"blk.{first}.ffn_down_exps.weight", inner)):
            np.testing.assert_allclose(found.importance(weight)[expert], w @ inputs.astype(np.float64) ** 2, rtol=1e-4)
            entry, mass = found.entries[weight], layer.ffn.n_used * p[:, expert].sum()
            assert entry.counts[expert] == max(1, round(mass))
            np.testing.assert_allclose(entry.sums[expert] / entry.counts[expert], w @ inputs, rtol=1e-3, atol=1e-4)
            assert covariance.counts(weight)[expert] == pytest.approx(mass, rel=1e-5)
            mean = np.diag(covariance[weight][expert]) / mass
            np.testing.assert_allclose(mean, found.importance(weight)[expert], rtol=1e-4)


def test_a_model_without_experts(tmp_path):
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    with pytest.raises(UsageError, match="has no experts"):
        model.show_all_experts()

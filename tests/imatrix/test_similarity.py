"""Similarity of layers and saliency of experts, against the steps of the model taken one by one."""

import math
import subprocess
import sys
from operator import mul

import numpy as np
import pytest

from quanttool.imatrix.similarity import Similarity
from quanttool.models import load_model
from tests.models import tiny

TOKENS = np.arange(60).reshape(3, 20)


def mean_cosine(a, b):
    pairs = list(zip(a.reshape(-1, a.shape[-1]).tolist(), b.reshape(-1, b.shape[-1]).tolist(), strict=True))
    return sum(math.fsum(map(mul, x, y)) / math.hypot(*x) / math.hypot(*y) for x, y in pairs) / len(pairs)


def measured(model):
    similarity = Similarity(model.config.integer("expert_count", 0))
    model.hidden_states(TOKENS, inspector=similarity)
    return similarity


def made(shared, tmp_path, name):
    script = shared / "models" / "make_tiny_models.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "--only", name], check=True)
    return load_model(tmp_path / f"{name}.gguf")


def test_cosines_of_layers_and_their_parts(tmp_path):
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    found = measured(model).layers()
    assert [layer.layer for layer in found] == [0, 1] and not measured(model).experts()
    x = model.embed(TOKENS)
    for layer, cosines in zip(model.layers, found, strict=True):
        middle = layer.attention_step(x)
        after = layer.ffn_step(middle)
        expected = mean_cosine(x, after), mean_cosine(x, middle), mean_cosine(middle, after)
        assert (cosines.whole, cosines.attention, cosines.ffn) == pytest.approx(expected, rel=1e-5)
        x = after


def test_parts_side_by_side(shared, tmp_path):
    model = made(shared, tmp_path, "command-r")
    first = measured(model).layers()[0]
    x = model.embed(TOKENS)
    assert first.whole == pytest.approx(mean_cosine(x, model.layers[0].parallel_step(x)), rel=1e-5)
    assert first.attention is None and first.ffn is None


def test_saliency_of_experts(shared, tmp_path):
    model = made(shared, tmp_path, "mixtral")
    found = measured(model).experts()
    layer = model.layers[0]
    x = layer.ffn_norm(layer.attention_step(model.embed(TOKENS))).reshape(-1, model.n_embd)
    chosen, weights = layer.ffn.route(layer.ffn.ffn_gate_inp(x))
    expected = [[] for _ in range(layer.ffn.n)]
    for row, experts, factors in zip(x, chosen, weights, strict=True):
        for expert, factor in zip(experts, factors, strict=True):
            expected[expert].append(float(factor) * math.hypot(*layer.ffn._expert(row[None], expert)[0].tolist()))
    means = [sum(values) / len(values) if values else None for values in expected]
    assert len(found) == len(model.layers) and found[0].saliency == pytest.approx(means, rel=1e-4)


def test_looking_changes_nothing(tmp_path):
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    with_inspector = model.hidden_states(TOKENS, inspector=Similarity(0))
    assert np.array_equal(with_inspector, model.hidden_states(TOKENS))


def test_experts_without_tokens():
    similarity = Similarity(3)
    similarity.on_expert("blk.4.ffn_down_exps.weight", 1, np.array([1, 2], np.float32))
    similarity.on_expert("blk.4.ffn_down_exps.weight", 1, np.array([6], np.float32))
    (layer,) = similarity.experts()
    assert (layer.layer, layer.saliency) == (4, [None, 3.0, None])

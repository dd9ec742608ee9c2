"""Experts that no text reaches, from the imatrix to the quantized file."""

import json

import numpy as np
import pytest

from quanttool.imatrix import Entry, Imatrix, load, save
from quanttool.models import load_model
from tests.models import tiny

N_EXPERT, UNREACHED, N_FF = 8, (6, 7), 256


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A llama whose router never picks experts 6 and 7: their logits are 0, and 3 of the other 6 are positive."""
    metadata, tensors = tiny.llama()
    rng = np.random.default_rng(11)
    for i in range(tiny.N_LAYER):
        for name in ("attn_norm", "ffn_norm"):  # channels of very different size, as in models that were trained
            tensors[f"blk.{i}.{name}.weight"] *= np.exp(rng.standard_normal(tiny.N_EMBD)).astype(np.float32)
        for name in ("gate", "up", "down"):
            del tensors[f"blk.{i}.ffn_{name}.weight"]
            shape = (N_EXPERT, tiny.N_EMBD, N_FF) if name == "down" else (N_EXPERT, N_FF, tiny.N_EMBD)
            tensors[f"blk.{i}.ffn_{name}_exps.weight"] = (rng.standard_normal(shape) * 0.08).astype(np.float32)
        directions = rng.standard_normal((3, tiny.N_EMBD)).astype(np.float32)
        tensors[f"blk.{i}.ffn_gate_inp.weight"] = np.concatenate(
            [directions, -directions, np.zeros((2, tiny.N_EMBD), np.float32)]
        )
    metadata |= {"llama.expert_count": N_EXPERT, "llama.expert_used_count": 2, "llama.feed_forward_length": N_FF}
    return tiny.write(tmp_path_factory.mktemp("moe") / "moe.gguf", metadata | tiny.ascii_tokenizer(), tensors)


@pytest.fixture
def imatrix_path(run, model_path, text, tmp_path):
    path = tmp_path / "imatrix.gguf"
    result = run("imatrix", "-m", model_path, "-f", text, "-o", path, "-c", 32, "--process-output", "--show-statistics")
    assert "never reached 12 experts of 6 weights" in result.err
    layers = [line.split() for line in result.out.splitlines() if line.split()[1:3] == ["8", "2"]]
    assert [layer[0] for layer in layers] == ["0", "1"]  # the table: layer, experts, unreached
    return path


def divergence(run, model_path, quantized, text):
    options = ("-m", quantized, "--base-model", model_path, "-f", text, "-c", 32, "--json")
    return json.loads(run("perplexity", *options).out)["models"][0]["mean_kld"]["value"]


def quantized(run, model_path, out, *options):
    assert run("quantize", *options, model_path, out[0], out[1]).code == 0
    model = load_model(out[0])
    for name in model.file.tensors:
        assert np.isfinite(model.tensors.expand(name)).all(), name
    return out[0]


def test_the_file_has_no_rows_of_them(imatrix_path):
    for name, entry in load(imatrix_path).entries.items():
        if "_exps." in name:
            assert [i for i in range(N_EXPERT) if entry.counts[i] == 0] == list(UNREACHED)


def test_q2_k_is_better_than_without_imatrix(run, model_path, imatrix_path, text, tmp_path):
    plain = quantized(run, model_path, (tmp_path / "plain.gguf", "Q2_K"))
    weighted = quantized(run, model_path, (tmp_path / "weighted.gguf", "Q2_K"), "--imatrix", imatrix_path)
    assert divergence(run, model_path, weighted, text) < 0.95 * divergence(run, model_path, plain, text)


def test_iq2_xs_is_better_than_with_equal_importance(run, model_path, imatrix_path, text, tmp_path):
    """The type cannot be computed without an imatrix at all."""
    data = load(imatrix_path)
    equal = {name: Entry(np.ones(e.sums_of_squares.shape), np.ones_like(e.counts)) for name, e in data.entries.items()}
    save(Imatrix(equal, ["none"], 1, 32), tmp_path / "equal.gguf")
    results = [
        divergence(
            run, model_path, quantized(run, model_path, (tmp_path / "q.gguf", "IQ2_XS"), "--imatrix", path), text
        )
        for path in (tmp_path / "equal.gguf", imatrix_path)
        if not (tmp_path / "q.gguf").unlink(missing_ok=True)
    ]
    assert results[1] < 0.95 * results[0]

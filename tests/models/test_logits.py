"""Logits against those that llama.cpp computed for the same files (float32 weights and cache)."""

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.models import load_model
from tests.models import tiny

FLOAT32 = 1e-9  # normalized squared difference; we measure 1e-13 to 3e-11
HALF_PRECISION_GELU = 2e-7  # the reference takes GELU from a table in half precision; we measure 4e-9 to 7e-8
BFLOAT16 = 1e-4  # we measure 2e-6 to 5e-5; other seeds gave up to 8.5e-5

LIMITS = {
    "llama": FLOAT32,
    "llama3-freqs": FLOAT32,
    "mixtral": FLOAT32,
    "qwen2": FLOAT32,
    "qwen2moe": FLOAT32,
    "qwen3": FLOAT32,
    "qwen3moe": FLOAT32,
    "gemma2": HALF_PRECISION_GELU,
    "gemma3": HALF_PRECISION_GELU,
    "deepseek2": FLOAT32,
    "deepseek2-lite": FLOAT32,
    "bailingmoe2": FLOAT32,
    "glm4moe": FLOAT32,
    "gpt-oss": FLOAT32,
    "olmoe": FLOAT32,
    "phi3": FLOAT32,
    "command-r": FLOAT32,
    "starcoder2": HALF_PRECISION_GELU,
    "granite": FLOAT32,
}


def nmse(found, expected):
    expected = expected.astype(np.float64)
    return ((found - expected) ** 2).sum() / (expected**2).sum()


@pytest.mark.parametrize("name", LIMITS)
def test_logits_are_those_of_the_reference(name, tiny_models, shared):
    reference = np.load(shared / "golden" / "logits" / f"{name}.npz")
    logits = load_model(tiny_models / f"{name}.gguf").logits(reference["tokens"])
    assert nmse(logits, reference["logits"]) < LIMITS[name]


def test_llama_with_the_data_that_ships(tmp_path, golden):
    reference = np.load(golden / "logits" / "llama.npz")
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    assert nmse(model.logits(reference["tokens"]), reference["logits"]) < LIMITS["llama"]


@pytest.mark.parametrize("name", LIMITS)
def test_logits_in_bf16(name, tiny_models, shared):
    reference = np.load(shared / "golden" / "logits" / f"{name}.npz")
    logits = load_model(tiny_models / f"{name}.gguf", "bf16").logits(reference["tokens"])
    assert 1e-7 < nmse(logits, reference["logits"]) < BFLOAT16  # it is bf16, and good enough


def test_llama_in_bf16_with_the_data_that_ships(tmp_path, golden):
    reference = np.load(golden / "logits" / "llama.npz")
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()), "bf16")
    assert 1e-7 < nmse(model.logits(reference["tokens"]), reference["logits"]) < BFLOAT16


def test_blocks_of_a_mixture_of_experts_are_bf16_only_on_request(tiny_models):
    def hidden(precision):
        return load_model(tiny_models / "qwen3moe.gguf", precision).hidden_states(np.arange(3, 35)[None])

    exact = hidden("f32")
    assert np.array_equal(hidden("bf16"), exact)
    assert 1e-7 < nmse(hidden("bf16-experts"), exact) < 0.1  # a router may choose differently: no small error


def test_an_unknown_precision(tmp_path):
    with pytest.raises(UsageError, match=r"fp8.*f32, bf16"):
        load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()), "fp8")

"""Products and attention by PyTorch, on the processor; skipped where PyTorch is not installed. No GPU is needed."""

import importlib.util

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.models import load_model
from tests.models import tiny
from tests.models.test_logits import BFLOAT16, LIMITS, nmse

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")


@needs_torch
@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_golden_logits(name, precision, tiny_models, shared):
    reference = np.load(shared / "golden" / "logits" / f"{name}.npz")
    model = load_model(tiny_models / f"{name}.gguf", precision, device="cpu")
    error = nmse(model.logits(reference["tokens"]), reference["logits"])
    assert error < (LIMITS[name] if precision == "f32" else BFLOAT16)
    assert precision == "f32" or error > 1e-7  # it did round


@needs_torch
def test_llama_with_the_data_that_ships(tmp_path, golden):
    reference = np.load(golden / "logits" / "llama.npz")
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()), device="cpu")
    assert nmse(model.logits(reference["tokens"]), reference["logits"]) < LIMITS["llama"]


@needs_torch
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="PyTorch cannot use the device 'cuda:99'"):
        load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()), device="cuda:99")


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setattr("quanttool.models.device.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"quanttool\[torch\]"):
        load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()), device="cuda")

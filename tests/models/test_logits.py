"""Logits against those that llama.cpp computed for the same files (float32 weights and cache)."""

import os
import subprocess
import sys

import numpy as np
import pytest

from quanttool.models import load_model
from tests.models import tiny

# normalized squared difference; an independent float64 pass agrees with these references to 1e-12
LIMITS = {
    "llama": 1e-9,
    "llama3-freqs": 1e-9,
}


def nmse(found, expected):
    expected = expected.astype(np.float64)
    return ((found - expected) ** 2).sum() / (expected**2).sum()


@pytest.fixture(scope="module")
def tiny_models(shared, tmp_path_factory):
    """Folder with the reference models, written anew: the same seed gives the same weights."""
    folder = tmp_path_factory.mktemp("tiny-models")
    script = shared / "models" / "make_tiny_models.py"
    command = [sys.executable, str(script), str(folder), "--only", ",".join(LIMITS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    return folder


@pytest.mark.parametrize("name", LIMITS)
def test_logits_are_those_of_the_reference(name, tiny_models, shared):
    reference = np.load(shared / "golden" / "logits" / f"{name}.npz")
    logits = load_model(tiny_models / f"{name}.gguf").logits(reference["tokens"])
    assert nmse(logits, reference["logits"]) < LIMITS[name]


def test_llama_with_the_data_that_ships(tmp_path, golden):
    reference = np.load(golden / "logits" / "llama.npz")
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    assert nmse(model.logits(reference["tokens"]), reference["logits"]) < LIMITS["llama"]

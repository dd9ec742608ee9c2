"""Less common forms of the architectures: stretched ropes, other layouts of the same weights, other routers."""

import importlib.util

import numpy as np
import pytest

from quanttool.models import load_model
from tests.conftest import GOLDEN
from tests.models import variants
from tests.models.test_logits import FLOAT32, HALF_PRECISION_GELU, nmse

REFERENCE = np.load(GOLDEN / "logits" / "variants.npz")


@pytest.fixture(scope="module")
def makers(shared):
    path = shared / "models" / "make_tiny_models.py"
    spec = importlib.util.spec_from_file_location("make_tiny_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return variants.all_variants(module)


@pytest.mark.parametrize("name", REFERENCE.files)
def test_logits_are_those_of_the_reference(name, makers, tmp_path):
    makers[name]().write(tmp_path / "model.gguf")
    logits = load_model(tmp_path / "model.gguf").logits(variants.TOKENS)[variants.POSITIONS]
    assert nmse(logits, REFERENCE[name]) < (HALF_PRECISION_GELU if name.startswith("gemma") else FLOAT32)

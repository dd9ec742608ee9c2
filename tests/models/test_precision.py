"""Which precision a model runs in when the file decides."""

import pytest

from quanttool.models import load_model
from tests.models import tiny


@pytest.mark.parametrize("matrix_type, expected", [("BF16", "bf16"), ("F16", "f32"), ("F32", "f32")])
def test_auto_follows_the_weights(tmp_path, matrix_type, expected):
    path = tiny.write(tmp_path / "model.gguf", *tiny.llama(), matrix_type)
    assert load_model(path, "auto").precision == expected
    assert load_model(path).precision == "f32"

"""Vocabularies written as GGUF files that hold nothing else."""

from collections.abc import Callable

import numpy as np
import pytest

from quanttool.container import GGUFValueType, GGUFWriter
from quanttool.container.writer import encode_value
from quanttool.tokenizer import Tokenizer, load_tokenizer

_ELEMENTS = {"float32": GGUFValueType.FLOAT32, "int32": GGUFValueType.INT32, "uint8": GGUFValueType.UINT8}


def encoded(value) -> tuple[GGUFValueType, bytes]:
    """GGUF type and bytes of a Python value; number arrays come as numpy arrays."""
    element = None
    if isinstance(value, bool):
        kind = GGUFValueType.BOOL
    elif isinstance(value, int):
        kind = GGUFValueType.UINT32
    elif isinstance(value, str):
        kind = GGUFValueType.STRING
    elif isinstance(value, np.ndarray):
        kind, element = GGUFValueType.ARRAY, _ELEMENTS[value.dtype.name]
    else:
        kind, element = GGUFValueType.ARRAY, GGUFValueType.STRING
    return kind, encode_value(value, kind, element)


@pytest.fixture
def tokenizer_of(tmp_path) -> Callable[..., Tokenizer]:
    """Function from the values of tokenizer.ggml.* to the tokenizer of such a file; `name` is general.name."""

    def build(name: str = "", **values) -> Tokenizer:
        keys = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
        metadata = {key: encoded(value) for key, value in {"general.name": name, **keys}.items()}
        with GGUFWriter(tmp_path / "vocabulary.gguf", metadata, []):
            pass
        return load_tokenizer(tmp_path / "vocabulary.gguf")

    return build

"""Every mix of ik_llama.cpp: the types must be those of its own dry runs."""

import re
from pathlib import Path

import pytest

from quanttool.container import TensorInfo
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.mixes import load_mixes
from quanttool.recipes.resolve import Request, parse_target, resolve

from .ik_models import MODELS
from .test_classic_mixes import GOLDEN, read_schema

FILES = sorted((GOLDEN / "ik_llama.cpp").glob("*.schema"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_types_equal_those_of_a_dry_run(path: Path):
    schema = read_schema(path)
    name = re.match(r"# Model: ([^,]+),", path.read_text())[1]
    arch, facts, shapes = MODELS[name]
    metadata = {"general.architecture": arch, f"{arch}.embedding_length": 256}
    metadata |= {f"{arch}.{key}": value for key, value in facts.items()}
    tensors = [TensorInfo(tensor, BY_NAME["F32"], ne) for tensor, ne in shapes()]
    mixes = {mix.name for mix in load_mixes()["ik_llama.cpp"].values() if not mix.base.is_plain or "_R" in mix.name}
    assert set(schema.default) == mixes
    for mix, default in schema.default.items():
        request = Request(parse_target(mix, "ik_llama.cpp"), imatrix=bool(schema.dimensions.get("imatrix")))
        types = {choice.tensor.name: choice.type.name for choice in resolve(metadata, tensors, request)}
        assert types == {**dict.fromkeys(types, default), **schema.exceptions[mix]}, mix


def test_all_files_are_there():
    assert {path.stem.rpartition("-")[0] for path in FILES if path.stem.endswith("-plain")} == set(MODELS)

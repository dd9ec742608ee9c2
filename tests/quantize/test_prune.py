"""Leaving layers out: as llama-quantize --prune-layers does, and metadata of each layer as well."""

import hashlib

import pytest

from quanttool.cli.quantize import command
from quanttool.container import GGUFFile, GGUFValueType, Metadata, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.errors import UsageError
from quanttool.ggml_types import BY_NAME
from quanttool.quantize.prune import parse_layers, pruned_metadata, pruned_names

from .small_model import write_imatrix, write_model

# arguments -> sha256 of what llama-quantize made
LLAMA_CPP = {
    "--prune-layers 0 model.gguf pruned.gguf Q8_0": "c4f022631e84addfb790faef5d103e167ed440c09551aaedeb0998e5af0b2034",
    "--imatrix imatrix.gguf --prune-layers 0 model.gguf pruned.gguf IQ4_XS": (
        "f08164b172f7fdf752cabe3ddd32a127ecb778820c8a69ffe7d6a78f17379753"
    ),
}


@pytest.mark.parametrize("arguments", LLAMA_CPP)
def test_files_equal_those_of_llama_quantize(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.gguf")
    write_imatrix(tmp_path / "imatrix.gguf")
    as_llama_cpp = ["--no-provenance", "--imatrix-rules", "llama.cpp", "--mix-rules", "llama.cpp"]
    command.main([*as_llama_cpp, *arguments.split()], standalone_mode=False)
    assert hashlib.sha256((tmp_path / "pruned.gguf").read_bytes()).hexdigest() == LLAMA_CPP[arguments]
    assert GGUFFile("pruned.gguf").metadata["llama.block_count"] == 1


@pytest.mark.parametrize(
    ("text", "layers"), [("3", {3}), ("1,10-12", {1, 10, 11, 12}), (" 4 , 4-4", {4}), ("0-0,2", {0, 2})]
)
def test_layers_are_numbers_and_ranges(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "1,,2", "1-99999999999"])
def test_what_is_no_layer(text):
    with pytest.raises(UsageError, match="is no layer"):
        parse_layers(text)


def tensors(*names: str) -> list[TensorInfo]:
    return [TensorInfo(name, BY_NAME["F32"], (32, 2)) for name in names]


def test_layers_are_numbered_anew():
    model = tensors("blk.0.a.weight", "blk.1.a.weight", "blk.10.a.weight", "blk.2.a.weight", "token_embd.weight")
    assert pruned_names(model, {1}) == {
        "blk.0.a.weight": "blk.0.a.weight",
        "blk.2.a.weight": "blk.10.a.weight",
        "blk.1.a.weight": "blk.2.a.weight",
        "token_embd.weight": "token_embd.weight",
    }
    with pytest.raises(UsageError, match="the model has no layer 3; its layers are 0 to 10"):
        pruned_names(model, {3})
    with pytest.raises(UsageError, match="no layer at all"):
        pruned_names(model, {0, 1, 2, 10})


def test_values_of_each_layer_follow():
    kinds = GGUFValueType
    model = Metadata(
        {
            "general.architecture": (kinds.STRING, encode_value("x", kinds.STRING)),
            "x.block_count": (kinds.UINT32, encode_value(4, kinds.UINT32)),
            "x.attention.head_count_kv": (kinds.ARRAY, encode_value([1, 2, 3, 4], kinds.ARRAY, kinds.UINT32)),
            "x.sections": (kinds.ARRAY, encode_value([1, 2, 3], kinds.ARRAY, kinds.UINT32)),
            "x.leading_dense_block_count": (kinds.UINT32, encode_value(2, kinds.UINT32)),
            "x.nextn_predict_layers": (kinds.UINT32, encode_value(1, kinds.UINT32)),
            "x.embedding_length": (kinds.UINT32, encode_value(4, kinds.UINT32)),
        }
    )
    changed = Metadata(pruned_metadata(model, {1, 2}))
    assert changed["x.attention.head_count_kv"].tolist() == [1, 4]
    assert changed["x.leading_dense_block_count"] == 1 and changed["x.block_count"] == 2
    assert set(changed) == {"x.attention.head_count_kv", "x.leading_dense_block_count", "x.block_count"}
    assert Metadata(pruned_metadata(model, {3}))["x.nextn_predict_layers"] == 0

"""Variants side by side give the bits that each gives alone, as a file of its own."""

import subprocess
import sys

import numpy as np
import pytest

from quanttool.container import GGUFWriter
from quanttool.container.writer import copied
from quanttool.formats import dequantize_rows, quantize_rows
from quanttool.models import load_model
from quanttool.models.side_by_side import first_layer, side_by_side
from tests.models import tiny

TOKENS = np.random.default_rng(4).integers(0, 100, (3, 20)).astype(np.int32)


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("side")
    script = shared / "models" / "make_tiny_models.py"
    names = "mixtral,deepseek2,gemma3"
    subprocess.run([sys.executable, str(script), str(folder), "--only", names], check=True)
    metadata, tensors = tiny.llama()
    tiny.write(folder / "llama.gguf", metadata, tensors)
    return folder


def quantized(file):
    def quantize(name, kind):
        info = file.tensors[name]
        return quantize_rows(dequantize_rows(file.data(name), info.type.name, info.n_cols), kind)

    return quantize


def rounded_file(file, types, path):
    """The model with float32 values that the types stand for, as a file."""
    with GGUFWriter(path, copied(file.metadata), list(file.tensors.values())) as writer:
        for name, info in file.tensors.items():
            data = file.data(name)
            if name in types:
                data = dequantize_rows(quantized(file)(name, types[name]), types[name], info.n_cols).view(np.uint8)
            writer.write_rows(name, 0, data)
    return path


VARIANTS = {
    "llama": [
        {"token_embd.weight": "Q4_0"},
        {"blk.0.attn_q.weight": "Q4_0"},
        {"blk.0.ffn_down.weight": "Q4_0", "blk.1.attn_v.weight": "Q5_0"},
        {"blk.1.ffn_up.weight": "Q8_0"},
        {"blk.1.ffn_up.weight": "Q4_0"},
        {"output.weight": "Q4_0"},
    ],
    "mixtral": [
        {"blk.0.ffn_down_exps.weight": "Q4_0"},
        {"blk.0.attn_k.weight": "Q4_0", "blk.1.ffn_gate_exps.weight": "Q4_0"},
        {"blk.1.attn_output.weight": "Q4_0"},
    ],
    "deepseek2": [{"blk.0.attn_k_b.weight": "Q4_0"}, {"blk.1.attn_v_b.weight": "Q4_0"}],
    "gemma3": [{"token_embd.weight": "Q4_0", "blk.1.ffn_up.weight": "Q4_0"}],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_the_model_that_it_would_be_alone(name, folder, tmp_path):
    model, variants = load_model(folder / f"{name}.gguf"), VARIANTS[name]
    seen = []
    found = side_by_side(model, TOKENS, variants, quantized(model.file), lambda *done: seen.append(done))
    assert np.array_equal(found[0], model.hidden_states(TOKENS))
    for i, types in enumerate(variants, 1):
        alone = load_model(rounded_file(model.file, types, tmp_path / f"{i}.gguf"))
        assert np.array_equal(found[i], alone.hidden_states(TOKENS)), types
        if set(types) != {"output.weight"}:
            assert not np.array_equal(found[i], found[0]), types
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_model_is_itself_again_afterwards(folder):
    model = load_model(folder / "llama.gguf")
    before = model.hidden_states(TOKENS)
    side_by_side(model, TOKENS, VARIANTS["llama"], quantized(model.file))
    assert np.array_equal(model.hidden_states(TOKENS), before)


def test_a_weight_is_quantized_once_for_all_variants_that_share_it(folder):
    model, asked = load_model(folder / "llama.gguf"), []

    def counting(name, kind):
        asked.append((name, kind))
        return quantized(model.file)(name, kind)

    variant = {"blk.0.attn_q.weight": "Q4_0", "blk.1.ffn_up.weight": "Q4_0"}
    side_by_side(model, TOKENS, [variant, variant, {"blk.1.ffn_up.weight": "Q8_0"}], counting)
    assert sorted(asked) == [
        ("blk.0.attn_q.weight", "Q4_0"),
        ("blk.1.ffn_up.weight", "Q4_0"),
        ("blk.1.ffn_up.weight", "Q8_0"),
    ]


def test_where_variants_begin():
    assert first_layer({"blk.11.attn_q.weight": "Q4_0", "blk.3.ffn_up.weight": "Q4_0", "output.weight": "Q6_K"}) == 3
    assert first_layer({"token_embd.weight": "Q4_0"}) == -1
    assert first_layer({"output.weight": "Q4_0"}) > 1000

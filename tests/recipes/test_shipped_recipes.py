"""Every shipped recipe decides every tensor of the model that it is for, without fallbacks and idle rules."""

from math import prod

import gguf
import pytest

from quanttool.container import GGUFValueType, GGUFWriter, TensorInfo, open_gguf
from quanttool.container.writer import encode_value
from quanttool.ggml_types import BY_NAME
from quanttool.quantize.plan import make_plan
from quanttool.recipes.limits import reason_to_keep
from quanttool.recipes.recipe import read_recipe, shipped_recipes
from quanttool.recipes.resolve import Request, parse_target, resolve
from quanttool.recipes.review import lint, review

from . import schema_models

# recipe -> (architecture, its model)
MODELS = {
    "deepseek-v3": ("deepseek2", schema_models.deepseek_v3),
    "gemma-3": ("gemma3", schema_models.gemma3_4b),
    "glm-4.6": ("glm4moe", schema_models.glm_4_6),
    "kimi-k2": ("deepseek2", schema_models.kimi_k2),
    "ling-1t": ("bailingmoe2", schema_models.ling_1t),
    "ling-flash": ("bailingmoe2", schema_models.ling_flash),
    "llama-3": ("llama", schema_models.llama3_70b),
    "qwen3-30b-a3b": ("qwen3moe", schema_models.qwen3_30b_a3b),
    "qwen3-coder-480b": ("qwen3moe", schema_models.qwen3_coder_480b),
}
TYPES = {  # of one tensor per rule or two, by hand
    "deepseek-v3": {
        "blk.3.ffn_down_exps.weight": "IQ4_XS", "blk.60.ffn_up_exps.weight": "IQ3_S", "blk.0.ffn_down.weight": "Q8_0",
        "blk.5.attn_k_b.weight": "Q8_0", "output.weight": "Q6_K", "blk.9.ffn_gate_inp.weight": "F32",
    },
    "gemma-3": {"token_embd.weight": "Q6_K", "blk.33.attn_v.weight": "Q8_0", "blk.1.ffn_up.weight": "IQ4_XS"},
    "glm-4.6": {
        "blk.2.ffn_up.weight": "Q6_K", "blk.3.ffn_up_exps.weight": "IQ3_S", "blk.92.nextn.eh_proj.weight": "Q8_0",
        "blk.92.ffn_down_shexp.weight": "Q8_0", "blk.50.attn_q.weight": "Q6_K", "blk.3.ffn_gate_inp.weight": "F32",
    },
    "kimi-k2": {
        "blk.9.attn_k_b.weight": "Q8_0", "blk.9.attn_q_b.weight": "IQ6_K", "blk.60.ffn_down_exps.weight": "IQ3_KS",
    },
    "ling-1t": {"blk.3.ffn_up.weight": "IQ5_KS", "blk.79.ffn_gate_exps.weight": "IQ2_KL", "output.weight": "IQ6_K"},
    "ling-flash": {
        "blk.0.ffn_down.weight": "Q8_0", "blk.31.attn_qkv.weight": "Q8_0", "blk.1.ffn_down_exps.weight": "Q4_K",
    },
    "qwen3-30b-a3b": {"blk.47.attn_output.weight": "Q6_K", "blk.0.ffn_up_exps.weight": "IQ4_XS"},
    "qwen3-coder-480b": {
        "blk.3.ffn_up_exps.weight": "IQ4_XS", "blk.4.ffn_up_exps.weight": "IQ3_S",
        "blk.57.ffn_gate_exps.weight": "IQ3_S", "blk.58.ffn_gate_exps.weight": "IQ4_XS",
        "blk.30.ffn_down_exps.weight": "IQ4_XS",
    },
    "llama-3": {"token_embd.weight": "Q6_K", "blk.79.attn_k.weight": "Q8_0", "blk.1.ffn_down.weight": "Q5_K"},
}  # fmt: skip


def test_every_shipped_recipe_is_tested():
    assert set(shipped_recipes()) == set(MODELS) == set(TYPES)


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_recipe_decides_every_tensor(name):
    arch, shapes = MODELS[name]
    recipe = read_recipe(name)
    tensors = [TensorInfo(tensor, BY_NAME["F32"], ne) for tensor, ne in shapes()]
    metadata = {"general.architecture": arch}
    choices = resolve(metadata, tensors, Request(parse_target(recipe.base), rules=recipe.rules))
    undecided = [c.tensor.name for c in choices if c.rule is None and not reason_to_keep(c.tensor, arch)]
    assert undecided == [] and lint(recipe.rules) == []
    assert {one.rule.text: one.verdict for one in review(recipe.rules, choices) if one.verdict} == {}
    chosen = {choice.tensor.name: choice.type.name for choice in choices}
    assert {tensor: chosen[tensor] for tensor in TYPES[name]} == TYPES[name]


# Billions of weights as the models' makers publish them; GLM-4.6 with the layer that predicts a second token.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen3-30b-a3b", 30.5), ("qwen3-coder-480b", 480), ("glm-4.6", 357), ("ling-flash", 103), ("ling-1t", 1000),
     ("kimi-k2", 1026), ("deepseek-v3", 671)],
)  # fmt: skip
def test_the_models_are_as_large_as_published(name, billions):
    n_values = sum(prod(ne) for _, ne in MODELS[name][1]())
    assert n_values / 1e9 == pytest.approx(billions, rel=0.015)


@pytest.mark.parametrize("name", ["deepseek-v3", "ling-flash"])
def test_the_plan_of_a_header_has_the_exact_size(tmp_path, name):
    """A file of nothing but a header; sizes by the gguf library's table of blocks."""
    arch, shapes = MODELS[name]
    architecture = GGUFValueType.STRING, encode_value(arch, GGUFValueType.STRING)
    infos = [TensorInfo(tensor, BY_NAME["BF16"], ne) for tensor, ne in shapes()]
    header = GGUFWriter("", {"general.architecture": architecture}, infos).header_bytes
    (tmp_path / "header.gguf").write_bytes(header)
    recipe, file = read_recipe(name), open_gguf(tmp_path / "header.gguf", header_only=True)
    plan = make_plan(
        file.metadata, file.tensors.values(), Request(parse_target(recipe.base), rules=recipe.rules, imatrix=True)
    )
    expected = 0
    for tensor in plan.tensors:
        block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.type.id)]
        expected += prod(tensor.source.ne) // block * n_bytes
    assert plan.tensor_bytes == expected
    assert plan.file_bytes == len(GGUFWriter("", plan.metadata, [t.target for t in plan.tensors]).header_bytes) + sum(
        -(-tensor.target.n_bytes // 32) * 32 for tensor in plan.tensors
    )
    assert {"deepseek-v3": 3.9, "ling-flash": 4.5}[name] == pytest.approx(plan.bpw, abs=0.2)

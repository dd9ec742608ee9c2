"""Every shipped recipe decides every tensor of the model that it is for, without fallbacks and idle rules."""

import pytest

from quanttool.container import TensorInfo
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.limits import reason_to_keep
from quanttool.recipes.recipe import read_recipe, shipped_recipes
from quanttool.recipes.resolve import Request, parse_target, resolve
from quanttool.recipes.review import lint, review

from . import schema_models

# recipe -> (architecture, its model)
MODELS = {
    "deepseek-v3": ("deepseek2", schema_models.deepseek_v3),
    "gemma-3": ("gemma3", schema_models.gemma3_4b),
    "llama-3": ("llama", schema_models.llama3_70b),
}
TYPES = {  # of one tensor per rule or two, by hand
    "deepseek-v3": {
        "blk.3.ffn_down_exps.weight": "IQ4_XS", "blk.60.ffn_up_exps.weight": "IQ3_S", "blk.0.ffn_down.weight": "Q8_0",
        "blk.5.attn_k_b.weight": "Q8_0", "output.weight": "Q6_K", "blk.9.ffn_gate_inp.weight": "F32",
    },
    "gemma-3": {"token_embd.weight": "Q6_K", "blk.33.attn_v.weight": "Q8_0", "blk.1.ffn_up.weight": "IQ4_XS"},
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

"""Recipes as files, what they do to a model, and recipes taken from a file."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttool.container import TensorInfo
from quanttool.errors import RecipeError, UsageError
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.extract import extract, numbers
from quanttool.recipes.recipe import read_recipe, to_toml
from quanttool.recipes.resolve import Request, parse_target, resolve
from quanttool.recipes.review import lint, review

from . import schema_models

TOML = """
name = "Small"
author = "A. Person"
base = "IQ4_XS"
notes = "for tests"
rules = '''
attn_v=Q8_0   # values
ffn_down=Q6_K
'''
"""


def test_a_toml_recipe(tmp_path):
    (tmp_path / "r.toml").write_text(TOML)
    recipe = read_recipe(str(tmp_path / "r.toml"))
    assert (recipe.name, recipe.author, recipe.base, recipe.notes) == ("Small", "A. Person", "IQ4_XS", "for tests")
    assert [rule.type.name for rule in recipe.rules] == ["Q8_0", "Q6_K"]
    (tmp_path / "again.toml").write_text(to_toml(recipe))
    again = read_recipe(str(tmp_path / "again.toml"))
    assert again.name == "Small" and [r.pattern for r in again.rules] == [r.pattern for r in recipe.rules]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("author", "autor", "unknown key 'autor'; known are author, base"),
        ('"Small"', "7", "name is 7, expected text"),
        ("Q6_K", "Q6_X", "unknown type 'Q6_X'"), ("rules = '''", "rules = ''", "r.toml: "),
        ('notes = "for', 'dialect = "c"\nnotes = "for', "unknown dialect 'c'; known are quanttool, llama.cpp"),
    ],
)  # fmt: skip
def test_mistakes_in_a_toml_recipe(tmp_path, old, new, words):
    assert old in TOML
    (tmp_path / "r.toml").write_text(TOML.replace(old, new))
    with pytest.raises(RecipeError, match=words):
        read_recipe(str(tmp_path / "r.toml"))


def test_a_text_file_and_text(tmp_path):
    (tmp_path / "my.recipe").write_text("attn_v=Q8_0\n")
    assert read_recipe(str(tmp_path / "my.recipe")).rules[0].type.name == "Q8_0"
    assert read_recipe("a=q8_0,b=q6_K", "ik_llama.cpp").rules[1].type.name == "Q6_K"
    with pytest.raises(UsageError, match="no such recipe"):
        read_recipe("absent.recipe")


def test_pure_puts_rules_aside_in_one_dialect_only():
    for dialect, n_rules in (("quanttool", 1), ("llama.cpp", 1), ("ik_llama.cpp", 0)):
        recipe = read_recipe("a=q8_0", dialect)
        assert len(recipe.rules_under(pure=True)) == n_rules and len(recipe.rules_under(pure=False)) == 1


def test_review_of_every_rule():
    shapes = {
        "blk.0.attn_v.weight": (256, 4), "blk.0.ffn_up.weight": (288, 4), "blk.1.ffn_up.weight": (256, 4),
        "blk.0.attn_norm.weight": (256,),
    }  # fmt: skip
    tensors = [TensorInfo(name, BY_NAME["F32"], ne) for name, ne in shapes.items()]
    recipe = read_recipe(r"ffn_up=Q4_K,blk\.1\.=Q8_0,norm=Q8_0,ffn_gate=Q8_0,attn=Q6_K")
    choices = resolve({}, tensors, Request(parse_target("IQ4_XS"), rules=recipe.rules))
    up, layer, norm, gate, attn = review(recipe.rules, choices)
    assert up.decided == ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"] and up.fallbacks == ["blk.0.ffn_up.weight"]
    assert up.verdict == "falls back for 1 tensors, as blk.0.ffn_up.weight"
    assert layer.shadowed == ["blk.1.ffn_up.weight"] and layer.verdict.startswith("shadowed")
    assert norm.settled == ["blk.0.attn_norm.weight"] and norm.verdict.startswith("without effect")
    assert gate.verdict == "matches no tensor"
    assert attn.decided == ["blk.0.attn_v.weight"] and attn.shadowed == ["blk.0.attn_norm.weight"] and not attn.verdict


@pytest.mark.parametrize(
    ("text", "n_findings"),
    [
        (r"blk\.1\.ffn_up=Q8_0", 0), (r"blk\.(1|2)\.x=Q8_0", 0), (r"blk\.[0-9]\.x=Q8_0", 0), (r"blk\.1.*ffn=Q8_0", 0),
        (r"blk\.1=Q8_0", 1), (r"blk.12_=Q8_0", 1), ("a=Q8_0,a=Q6_K", 1), (".*=Q8_0", 1),
    ],
)  # fmt: skip
def test_lint(text, n_findings):
    assert len(lint(read_recipe(text).rules)) == n_findings


@given(st.sets(st.integers(0, 250), min_size=1))
def test_numbers_matches_exactly_these(layers):
    pattern = re.compile(numbers(layers))
    assert {n for n in range(1300) if pattern.fullmatch(str(n))} == layers


def test_numbers_are_short():
    assert numbers(range(10)) == "[0-9]" and numbers([3]) == "3"
    assert numbers([0, 1, 2, 10, 13, 20, 23]) == "([0-2]|[12][03])"
    assert numbers(range(61)) == "([0-9]|[1-5][0-9]|60)"


@pytest.mark.parametrize("target", ["Q4_K_M", "IQ3_XS", "Q2_K"])
def test_an_extracted_recipe_gives_the_same_types(target):
    tensors = [TensorInfo(name, BY_NAME["F32"], ne) for name, ne in schema_models.deepseek_v3()]
    metadata = {"general.architecture": "deepseek2", "deepseek2.block_count": 61, "deepseek2.expert_count": 256}
    wanted = {c.tensor.name: c.type for c in resolve(metadata, tensors, Request(parse_target(target)))}
    made = [TensorInfo(t.name, wanted[t.name], t.ne) for t in tensors]
    recipe = extract(made, "deepseek2")
    again = resolve(metadata, tensors, Request(parse_target(recipe.base), rules=recipe.rules))
    assert {choice.tensor.name: choice.type for choice in again} == wanted
    assert not any(choice.wanted for choice in again)
    assert len(recipe.rules) < 30 < len(wanted)

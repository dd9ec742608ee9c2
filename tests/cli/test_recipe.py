"""`quanttool recipe` and the recipe options of `quanttool quantize`, as people type them."""

import json

import pytest

from quanttool.cli import recipes as recipe_options
from quanttool.recipes import dialects
from tests.quantize.small_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("recipe") / "model.gguf")


def types(run, model, *options) -> dict[str, str]:
    outcome = run("quantize", "--dry-run", "--json", model, *options)
    assert outcome.code == 0, outcome.err
    return {entry["name"]: entry["type"] for entry in json.loads(outcome.out)}


def test_quantize_takes_recipes_from_all_places_in_order(run, model, tmp_path):
    (tmp_path / "types.txt").write_text("ATTN_V=q5_0 attn_k=q5_1\n")
    (tmp_path / "r.toml").write_text('base = "Q4_K_S"\nrules = "attn_[qkv]=Q8_0"\n')
    chosen = types(
        run, model, "--tensor-type", r"0\.attn_v=q6_K", "--tensor-type-file", tmp_path / "types.txt",
        "--recipe", tmp_path / "r.toml",
    )  # fmt: skip
    assert [chosen[f"blk.{name}.weight"] for name in ("0.attn_v", "1.attn_v", "0.attn_k", "0.attn_q")] == [
        "Q6_K", "Q5_0", "Q5_1", "Q8_0",
    ]  # fmt: skip
    assert chosen["blk.1.ffn_up_exps.weight"] == "Q4_K"  # the recipe's base


def test_pure_in_the_dialects(run, model):
    options = ("--pure", "--recipe", "attn_q=q8_0", "Q4_K")
    assert types(run, model, *options)["blk.0.attn_q.weight"] == "Q8_0"
    assert types(run, model, *options, "--recipe-dialect", "ik_llama.cpp")["blk.0.attn_q.weight"] == "Q4_K"
    outcome = run("quantize", "--dry-run", model, *options, "--recipe-dialect", "ik_llama.cpp")
    assert "--pure puts the recipe's rules aside" in outcome.err


def test_a_recipe_without_a_base_needs_a_type(run, model, tmp_path):
    outcome = run("quantize", model, tmp_path / "o.gguf", "--recipe", "attn_v=Q8_0")
    assert outcome.code == 2 and "expected IN.gguf OUT.gguf TYPE" in outcome.err


def test_show(run, model):
    outcome = run("recipe", "show", model, "attn_v=Q8_0,ffn_down=Q4_K,attn=F16,nothing=F16", "--type", "Q4_K_S")
    assert outcome.code == 0
    lines = [line.split() for line in outcome.out.splitlines() if "=" in line]
    assert [line[:4] for line in lines] == [
        ["1", "attn_v=Q8_0", "2", "2"], ["2", "ffn_down=Q4_K", "2", "2"], ["3", "attn=F16", "7", "3"],
        ["4", "nothing=F16", "0", "0"],
    ]  # fmt: skip
    assert "falls back for 1 tensors, as blk.0.ffn_down.weight" in outcome.out and "matches no tensor" in outcome.out
    assert outcome.out.splitlines()[-1] == "7 tensors to quantize are decided by no rule"
    data = json.loads(run("recipe", "show", model, "attn_v=Q8_0", "--json").out)
    assert data[0]["decided"] == ["blk.0.attn_v.weight", "blk.1.attn_v.weight"]


def test_lint(run, model):
    assert run("recipe", "lint", "attn_v=Q8_0", model).code == 0
    outcome = run("recipe", "lint", "nothing=Q8_0,blk.1=Q8_0", model)
    assert outcome.code == 1 and "nothing=Q8_0: matches no tensor" in outcome.out and "longer layer" in outcome.out


def test_extract_then_quantize_gives_the_same_types(run, model, tmp_path):
    recipe = tmp_path / "found.toml"
    assert run("quantize", "--pure", model, tmp_path / "made.gguf", "Q8_0", "--tensor-type", "attn_q=F16").code == 0
    assert run("recipe", "extract", tmp_path / "made.gguf", "-o", recipe).code == 0
    made = types(run, tmp_path / "made.gguf", "COPY")
    assert types(run, model, "--recipe", recipe) == made and made["blk.0.attn_q.weight"] == "F16"
    assert "name =" in run("recipe", "extract", tmp_path / "made.gguf").out


def test_convert(run):
    text = r"attn_v=Q6_K,ffn_down=Q8_0"
    assert run("recipe", "convert", text, "--to", "ik_llama.cpp").out == "attn_v=q6_K,ffn_down=q8_0\n"
    assert run("recipe", "convert", text, "--to", "llama.cpp").out == "attn_v=q6_k\nffn_down=q8_0\n"
    assert run("recipe", "convert", text, "--to", "toml").out == "rules = '''\nattn_v=Q6_K\nffn_down=Q8_0\n'''\n"
    outcome = run("recipe", "convert", r"a{1,2}=Q8_0", "--to", "ik_llama.cpp")
    assert outcome.code == 1 and "cannot contain ','" in outcome.err and len(outcome.err.splitlines()) == 1


def test_mistakes_are_one_line(run, model):
    for arguments in (("show", model, "absent"), ("lint", "a=Q9"), ("extract", "absent.gguf"), ("lint", "a(=Q8_0")):
        outcome = run("recipe", *arguments)
        assert outcome.code in (1, 2) and len(outcome.err.splitlines()) == 1 and outcome.out == ""


def test_the_option_offers_every_dialect():
    assert recipe_options.DIALECTS == dialects.DIALECTS


def test_repack(run, model, tmp_path):
    assert run("quantize", model, tmp_path / "q.gguf", "Q8_0").code == 0
    woven = types(run, tmp_path / "q.gguf", "COPY", "--repack", "--repack-pattern", "ffn_up")
    assert {name for name, kind in woven.items() if kind == "Q8_0_R8"} == {
        "blk.0.ffn_up.weight", "blk.1.ffn_up_exps.weight",
    }  # fmt: skip
    assert run("quantize", tmp_path / "q.gguf", tmp_path / "w.gguf", "COPY", "--repack").code == 0
    assert run("quantize", tmp_path / "w.gguf", tmp_path / "u.gguf", "COPY", "--unpack").code == 0
    assert (tmp_path / "u.gguf").read_bytes() == (tmp_path / "q.gguf").read_bytes()
    for options in (["Q4_0", "--repack"], ["COPY", "--repack-pattern", "a"], ["COPY", "--repack", "--unpack"]):
        outcome = run("quantize", tmp_path / "q.gguf", tmp_path / "x.gguf", *options)
        assert outcome.code == 2 and "--repack" in outcome.err and "Traceback" not in outcome.err

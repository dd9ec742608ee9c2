"""quanttool recipe compare."""

import json

import pytest

from quanttool.cli.recipe_compare import ranges
from quanttool.sensitivity.table import Sensitivity, save_sensitivity
from tests.optimize.test_allocation import costs_of
from tests.quantize.small_model import write_model


def test_sizes_types_and_differences(run, tmp_path):
    from quanttool.container import GGUFFile

    model = write_model(tmp_path / "small.gguf")
    tensors = list(GGUFFile(model).tensors.values())
    save_sensitivity(Sensitivity(costs_of(tensors)), tmp_path / "s.json")
    arguments = ("recipe", "compare", "Q8_0", "attn_q=Q6_K", "--model", model, "--sensitivity", tmp_path / "s.json")
    data = json.loads(run(*arguments, "--json").out)
    (difference,) = data["differences"]
    assert (difference["tensors"], difference["layers"]) == ("attn_q", [0])
    assert (difference["a"], difference["b"]) == ("Q8_0", "Q6_K")
    assert difference["bytes"] == 512 * (2 * 210 - 16 * 34)  # 512 rows of 512 weights
    costs = costs_of(tensors)["blk.0.attn_q.weight"]
    assert difference["predicted"] == pytest.approx(costs["Q6_K"] - costs["Q8_0"])
    a, b = data["recipes"]
    assert b["predicted_kld"] - a["predicted_kld"] == pytest.approx(difference["predicted"])
    shown = run(*arguments)
    assert "Where they differ" in shown.out and "predicted KLD" in shown.out
    change = b["file_bytes"] - a["file_bytes"]
    assert f"from A to B: {change:+,} bytes ({100 * change / a['file_bytes']:+.1f} %)" in shown.out


def test_the_same_recipe_twice(run, tiny_model):
    shown = run("recipe", "compare", "Q8_0", "Q8_0", "--model", tiny_model)
    assert shown.code == 0 and "every tensor has the same type in both" in shown.out


def test_layers_as_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([]) == ""


def test_measured_side_by_side(run, tiny_model, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text("Six dry ducks sit on a log and look at a big red sun. " * 8)
    outcome = run("recipe", "compare", "Q8_0", "Q4_0", "--model", tiny_model, "-f", text, "-c", "16", "--json")
    data = json.loads(outcome.out)
    a, b = data["recipes"]
    assert 0 < a["mean_kld"] < b["mean_kld"]
    (pair,) = data["comparisons"]["kld"]
    assert (pair["better"], pair["worse"], pair["is_significant"]) == ("A", "B", True)
    assert pair["difference"] == pytest.approx(b["mean_kld"] - a["mean_kld"])
    out = tmp_path / "q.gguf"
    assert run("quantize", tiny_model, out, "Q4_0").code == 0
    alone = run("perplexity", "-m", out, "--base-model", tiny_model, "-f", text, "-c", "16", "--json")
    assert json.loads(alone.out)["models"][0]["mean_kld"]["value"] == pytest.approx(b["mean_kld"], rel=1e-9)


def test_a_recipe_that_is_none(run, tiny_model):
    outcome = run("recipe", "compare", "Q8_0", "nonsense", "--model", tiny_model)
    assert outcome.code == 2 and "nonsense" in outcome.err

"""quanttool recipe optimize, up to the file that quantize makes of its recipe."""

import json

import pytest

from quanttool.container import GGUFFile
from quanttool.sensitivity.table import Sensitivity, save_sensitivity
from tests.optimize.test_allocation import costs_of
from tests.quantize.small_model import write_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimize")
    model = write_model(folder / "small.gguf")
    tensors = list(GGUFFile(model).tensors.values())
    save_sensitivity(Sensitivity(costs_of(tensors)), folder / "small.json")
    return folder, model, folder / "small.json"


def test_quantize_makes_a_file_of_that_size(files, run):
    folder, model, table = files
    recipe, out = folder / "r.toml", folder / "out.gguf"
    arguments = ("recipe", "optimize", model, "--sensitivity", table, "--types", "mainline")
    found = run(*arguments, "--size", "1100K", "-o", recipe, "--json")
    assert found.code == 0, found.err
    data = json.loads(found.out)
    assert run("quantize", "--recipe", recipe, model, out).code == 0
    assert out.stat().st_size == data["file_bytes"] <= 1100 * 1024
    written = {name: tensor.type.name for name, tensor in GGUFFile(out).tensors.items()}
    assert written == data["types"]
    assert data["gap"] < 0.01
    shown = run(*arguments, "--size", "1100K")
    assert "file" in shown.out and "no choice is better by more than" in shown.out
    assert "2 tensors were not measured" in shown.err


def test_bits_per_weight_divergence_classes_and_a_curve(files, run):
    folder, model, table = files
    arguments = ("recipe", "optimize", model, "--sensitivity", table, "--json")
    five = json.loads(run(*arguments, "--bpw", "5").out)
    assert five["bpw"] <= 5
    again = json.loads(run(*arguments, "--max-kld", five["predicted_kld"] * 1.0001).out)
    assert again["bpw"] <= five["bpw"] * 1.001
    assert again["predicted_kld"] <= five["predicted_kld"] * 1.0001
    classes = json.loads(run(*arguments, "--class", "_exps=700K", "--class", ".=2M").out)
    assert [limit["label"] for limit in classes["limits"]] == ["class _exps", "class ."]
    curve = run(*arguments, "--curve", "4.6:6.6:1", "-o", folder / "front")
    points = json.loads(curve.out)
    assert len(points) == 3
    assert sorted(p["predicted_kld"] for p in points) == [p["predicted_kld"] for p in reversed(points)]
    written = sorted(path.name for path in (folder / "front").iterdir())
    assert written == ["small-4.6bpw.toml", "small-5.6bpw.toml", "small-6.6bpw.toml", "small-front.svg"]


def test_speed(files, run):
    folder, model, table = files
    speeds = folder / "speeds.csv"
    speeds.write_text("type,tokens_per_second\nQ2_K,90\nQ4_K,60\nQ6_K,40\nQ8_0,30\n")
    arguments = ("recipe", "optimize", model, "--sensitivity", table, "--bpw", "8", "--json")
    slow = json.loads(run(*arguments).out)
    fast = json.loads(run(*arguments, "--speed", speeds, "--min-speed", "45").out)
    assert fast["sum_of_costs"] > slow["sum_of_costs"]
    assert fast["limits"][1]["used"] <= 1 / 45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a size, bits per weight or a class"),
        (("--bpw", "1"), "tensors: nothing fits into"),
        (("--bpw", "5", "--max-kld", "1"), "one of --bpw, --max-kld and --curve"),
        (("--bpw", "5", "--types", "IQ3_S"), "IQ3_S was not measured; known are"),
        (("--bpw", "5", "--keep", "x"), "expected REGEX=TYPE"),
        (("--bpw", "5", "--types-for", "x"), "expected REGEX=TYPE,TYPE"),
        (("--class", "x"), "expected REGEX=SIZE"),
        (("--curve", "4"), "expected FROM:TO"),
        (("--bpw", "5", "--min-speed", "4"), "--speed and --min-speed go together"),
    ],
)
def test_errors(files, run, arguments, message):
    _, model, table = files
    outcome = run("recipe", "optimize", model, "--sensitivity", table, *arguments)
    assert outcome.code in (1, 2)
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_damaged_sensitivity_files(files, run, tmp_path):
    _, model, _ = files
    path = tmp_path / "s.json"
    for text in ("{}", "[]", '{"format": "x"}', "nonsense"):
        path.write_text(text)
        outcome = run("recipe", "optimize", model, "--sensitivity", path, "--bpw", "5")
        assert outcome.code == 1
        assert "s.json" in outcome.err
    save_sensitivity(Sensitivity({"elsewhere.weight": {"Q4_K": 1.0}}), path)
    assert "knows no tensor of" in run("recipe", "optimize", model, "--sensitivity", path, "--bpw", "5").err

"""quanttool sensitivity, up to a recipe of its file."""

import json

import pytest


@pytest.fixture
def arguments(tiny_model, text, tmp_path):
    out = tmp_path / "s.json"
    return out, ("sensitivity", "-m", tiny_model, "-f", text, "-c", "16", "--types", "Q4_0,Q5_0,Q8_0",
                 "--probe", "Q4_0", "--checks", "4", "-o", out)  # fmt: skip


def test_from_a_text_to_a_recipe(arguments, tiny_model, run, tmp_path):
    out, command = arguments
    found = run(*command)
    assert found.code == 0, found.err
    assert "The ten that cost most in Q4_0" in found.out
    assert "cross-validated error" in found.err
    assert not (tmp_path / "s.json.state").exists()
    recipe = tmp_path / "r.toml"
    assert run("recipe", "optimize", tiny_model, "--sensitivity", out, "--bpw", "6", "-o", recipe).code == 0
    assert run("quantize", "--recipe", recipe, tiny_model, tmp_path / "q.gguf").code == 0


def test_json_and_imatrix(arguments, tiny_model, text, run, tmp_path):
    _, command = arguments
    imatrix = tmp_path / "i.gguf"
    assert run("imatrix", "-m", tiny_model, "-f", text, "-c", "16", "-o", imatrix).code == 0
    found = run(*command, "--imatrix", imatrix, "--json")
    data = json.loads(found.out)
    assert "says nothing of output.weight" in found.err
    assert data["probe"] == "Q4_0"
    assert len(data["checks"]) == 4


def test_errors_of_another_search_with_known_gains(arguments, tiny_model, text, run, tmp_path):
    out, command = arguments
    imatrix, again = tmp_path / "i.gguf", tmp_path / "again.json"
    assert run("imatrix", "-m", tiny_model, "-f", text, "-c", "16", "-o", imatrix).code == 0
    assert run(*command, "--imatrix", imatrix).code == 0
    found = run(
        "sensitivity", "-m", tiny_model, "--gains", out, "--imatrix", imatrix, "--search", "best", "--types",
        "Q4_0,Q5_0,Q8_0", "--probe", "Q4_0", "-o", again,
    )  # fmt: skip
    assert found.code == 0, found.err
    before, after = (json.loads(path.read_text()) for path in (out, again))
    assert after["details"]["search"] == "best" and after["interaction"] == before["interaction"]
    name = "blk.0.attn_v.weight"
    assert after["costs"][name]["Q4_0"] < 0.99 * before["costs"][name]["Q4_0"]
    assert after["costs"][name]["Q8_0"] == pytest.approx(before["costs"][name]["Q8_0"])  # it has no best


def test_a_state_of_another_run_is_refused(arguments, run, tmp_path):
    _, command = arguments
    (tmp_path / "s.json.state").write_text("{}")
    assert "no readable state" in run(*command).err
    identity = {"model": "other"}
    (tmp_path / "s.json.state").write_text(json.dumps({"identity": identity, "errors": {}, "divergences": {}}))
    outcome = run(*command)
    assert outcome.code == 2 and "belongs to another run" in outcome.err


def test_unknown_types_are_named(arguments, run):
    _, command = arguments
    outcome = run(*command, "--types", "Q4_0,Q9_9")
    assert outcome.code == 2 and "Q9_9" in outcome.err

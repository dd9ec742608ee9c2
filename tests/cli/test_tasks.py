"""quanttool perplexity --hellaswag and its kin, from the outside."""

import json

import pytest

from tests.evaluate.task_golden import TASKS, printed

FILES = {"hellaswag": "hellaswag.txt", "winogrande": "winogrande.csv", "multiple-choice": "multiple-choice.bin"}


@pytest.mark.parametrize("kind", ["hellaswag", "multiple-choice"])
def test_prints_what_llama_perplexity_prints(run, tiny_model, kind):
    result = run("perplexity", "-m", tiny_model, f"--{kind}", "-f", TASKS / FILES[kind])
    lines = [line.split() for line in result.out.splitlines() if line[:1].isdigit()]
    assert lines == printed("tiny")[f"--{kind}"]
    assert "Final" in result.out


def test_several_models_and_json(run, tiny_model, rounded_model):
    options = ("--winogrande", "--winogrande-tasks", 5, "-f", TASKS / FILES["winogrande"])
    result = run("perplexity", "-m", tiny_model, "-m", rounded_model, *options)
    assert result.out.count("Final Winogrande score(5 tasks)") == 2 and "same answer" in result.out
    data = json.loads(run("perplexity", "-m", tiny_model, *options, "--json").out)
    (model,) = data["models"]
    assert data["n_tasks"] == 5 and model["accuracy"]["value"] == 0.8 and len(model["scores"]) == 5


def test_wrong_requests(run, tiny_model, tmp_path):
    file = TASKS / FILES["hellaswag"]
    for options, message in (
        (("--hellaswag", "--winogrande", "-f", file), "exclude each other"),
        (("--hellaswag",), "one file"),
        (("--hellaswag", "-f", file, "--base-model", tiny_model), "no part in tasks"),
        (("--multiple-choice", "-f", tmp_path / "none"), "no such file"),
    ):
        result = run("perplexity", "-m", tiny_model, *options)
        assert result.code == 2 and message in result.err

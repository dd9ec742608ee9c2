"""Fallbacks: refused, by the table, or measured."""

import json

import numpy as np
import pytest

from quanttool.container import GGUFFile
from quanttool.errors import RecipeError
from quanttool.formats import dequantize_rows, quantize_rows
from quanttool.imatrix import load
from quanttool.quantize.fallbacks import candidates, measure_fallbacks
from quanttool.quantize.plan import make_plan
from quanttool.quantize.run import run
from quanttool.recipes.resolve import Request, parse_target

from .small_model import SHAPES, values, write_imatrix, write_model

NAME = "blk.0.ffn_down.weight"  # rows of 288: blocks of 32 and 96 fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fallbacks")
    write_model(folder / "model.gguf")
    write_imatrix(folder / "imatrix.gguf")
    return folder


def plan_of(folder, target: str, imatrix=None, **options):
    file = GGUFFile(folder / "model.gguf")
    request = Request(parse_target(target, "llama.cpp"), imatrix=imatrix is not None, **options)
    return file, make_plan(file.metadata, file.tensors.values(), request, imatrix, "i")


def tensor_of(plan):
    return next(tensor for tensor in plan.tensors if tensor.name == NAME)


def test_no_fallback_names_every_tensor(folder, tmp_path):
    file, plan = plan_of(folder, "Q4_K_M", allow_fallback=False)
    assert [str(problem).split(":")[0] for problem in plan.problems] == [NAME, "blk.0.odd.weight"]
    with pytest.raises(RecipeError, match=r"fallback from Q4_K: rows of 288 do not divide by 256 .*--no-fallback out"):
        run(file, plan, tmp_path / "out.gguf")
    assert not plan_of(folder, "Q4_0", pure=True, allow_fallback=False)[1].problems[1:]  # only the odd one


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("Q4_K", {"IQ4_NL", "MXFP4", "Q4_0"}),
        ("Q5_K", {"IQ4_NL", "MXFP4", "Q4_0", "Q4_1", "Q5_0"}),
        ("Q6_K", {"Q4_1", "Q5_0", "Q5_1"}),
        ("IQ3_S", {"IQ4_NL", "MXFP4", "Q4_0"}),  # nothing is that small: up to the size of the table's
        ("IQ4_KS", {"MXFP4"}),
        ("IQ6_K", {"Q4_1", "Q5_0", "Q5_1", "Q6_0"}),
    ],
)
def test_candidates_stay_within_the_bits(folder, target, expected):
    tensor = tensor_of(plan_of(folder, target, pure=True)[1])
    assert {kind.name for kind in candidates(tensor)} == expected


@pytest.mark.parametrize("weighted", [False, True])
def test_the_type_of_least_error_is_chosen(folder, weighted):
    """By another way: quantize_rows on all rows instead of a sample, where the differences are large."""
    imatrix = load(folder / "imatrix.gguf") if weighted else None
    file, plan = plan_of(folder, "Q4_K_M", imatrix)
    measure_fallbacks(plan, file, imatrix)
    rows = values(NAME, int(np.prod(SHAPES[NAME]))).reshape(512, 288)
    importance = imatrix.importance(NAME)[0] if weighted else np.ones(288, np.float32)
    errors = {}
    for kind in ("IQ4_NL", "MXFP4", "Q4_0"):
        got = dequantize_rows(quantize_rows(rows, kind, importance if weighted else None), kind, 288)
        errors[kind] = float(((rows - got) ** 2 @ importance).sum())
    best = min(errors, key=errors.get)
    assert sorted(errors.values())[1] > 1.03 * errors[best]
    assert tensor_of(plan).type.name == best and f"{best} " in tensor_of(plan).reason
    assert tensor_of(plan).wanted.name == "Q4_K"
    odd = next(tensor for tensor in plan.tensors if tensor.name == "blk.0.odd.weight")
    assert odd.type.name == "F16"


def test_the_command(folder, tmp_path):
    from click.testing import CliRunner

    from quanttool.cli.quantize import command

    def plan(*words) -> dict:
        arguments = ["--dry-run", "--json", "--mix-rules", "llama.cpp", *words, str(folder / "model.gguf"), "Q4_K_M"]
        return {entry["name"]: entry for entry in json.loads(CliRunner().invoke(command, arguments).stdout)}

    assert plan()[NAME]["type"] == "Q5_0"
    best = plan("--fallback", "best")[NAME]
    assert best["type"] in ("IQ4_NL", "Q4_0") and best["bytes"] == 512 * 9 * 18
    header = tmp_path / "header.gguf"
    header.write_bytes((folder / "model.gguf").read_bytes()[: GGUFFile(folder / "model.gguf").data_start])
    outcome = CliRunner().invoke(command, ["--dry-run", "--fallback", "best", str(header), "Q4_K_M"])
    assert "--fallback best measures weights, and this is a header only" in outcome.stderr

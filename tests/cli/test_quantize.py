"""`quanttool quantize` as people type it: what it prints, what it refuses, and that nothing half-written stays."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from quanttool.cli.quantize import command
from quanttool.container import GGUFFile
from quanttool.recipes.mixes import mix_names
from tests.quantize.small_model import SHAPES, write_imatrix, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    write_model(folder / "model.gguf")
    write_imatrix(folder / "imatrix.gguf")
    return folder


@pytest.fixture
def model(folder):
    return folder / "model.gguf"


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must fail: one line on standard error, and no new file in tmp_path."""

    def refused(code: int, *arguments) -> str:
        before = sorted(tmp_path.iterdir())
        outcome = run("quantize", *arguments)
        lines = [line for line in outcome.err.splitlines() if not line.startswith(("warning:", "Usage:", "Try "))]
        assert outcome.code == code and outcome.out == "" and len(lines) <= 2, outcome
        assert sorted(tmp_path.iterdir()) == before
        return lines[-1]

    return refused


def test_quantize_writes_the_file_and_says_what_it_did(run, model, tmp_path):
    outcome = run("quantize", model, tmp_path / "out.gguf", "bf16", "-t", 2)
    assert outcome.code == 0
    size = (tmp_path / "out.gguf").stat().st_size
    assert f"out.gguf: {size:,} bytes, " in outcome.err and "bpw" in outcome.err
    assert "BF16" in outcome.out and "F32" in outcome.out
    written = GGUFFile(tmp_path / "out.gguf")
    assert sorted(written.tensors) == sorted(SHAPES) and written.metadata["general.file_type"] == 32


def test_json_is_the_plan_as_a_list(run, model, tmp_path):
    for arguments in (["--dry-run", model, "Q4_K_M"], ["--dry-run", model, tmp_path / "x.gguf", "q4_k_m"]):
        outcome = run("quantize", *arguments, "--json")
        entries = json.loads(outcome.out)
        assert outcome.code == 0 and {entry["name"] for entry in entries} == set(SHAPES)
        assert {"name", "shape", "source_type", "type", "reason", "bytes"} == set(entries[0])
        assert {e["name"]: e["type"] for e in entries}["blk.1.ffn_down_exps.weight"] == "Q6_K"
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_types_reasons_and_the_total(run, model):
    outcome = run("quantize", "--dry-run", model, "Q4_K_M", "--tensor-type", "attn_q=q8_0")
    plan = json.loads(run("quantize", "--dry-run", model, "Q4_K_M", "--tensor-type", "attn_q=q8_0", "--json").out)
    assert "rule attn_q=q8_0" in outcome.out and "fallback from Q4_K" in outcome.out
    assert f"{sum(entry['bytes'] for entry in plan):,} of them tensors" in outcome.out
    assert "2 of 18 tensors required a fallback type" in outcome.err


def test_dry_run_of_a_header_alone(run, model, tmp_path):
    start = GGUFFile(model).data_start
    (tmp_path / "header.gguf").write_bytes(model.read_bytes()[:start])
    whole, header = (
        run("quantize", "--dry-run", path, "IQ3_M", "--json").out for path in (model, tmp_path / "header.gguf")
    )
    assert whole == header and json.loads(whole)
    assert run("quantize", tmp_path / "header.gguf", tmp_path / "out.gguf", "F16").code == 1


def test_a_dry_run_says_what_would_be_refused(run, model):
    outcome = run("quantize", "--dry-run", model, "IQ2_XS")
    assert outcome.code == 0 and "this would be refused: blk.1.ffn_down_exps.weight: IQ2_XS is useless" in outcome.err


def test_options_decide_types(run, folder, model):
    def types(*options) -> dict[str, str]:
        out = run("quantize", "--dry-run", "--json", *options, model, "Q4_K_M").out
        return {entry["name"]: entry["type"] for entry in json.loads(out)}

    assert types()["output.weight"] == "Q6_K" and types()["blk.1.ffn_down_exps.weight"] == "Q6_K"
    assert types("--pure")["output.weight"] == "Q4_K"
    assert types("--leave-output-tensor")["output.weight"] == "F32"
    assert types("--output-tensor-type", "q8_0")["output.weight"] == "Q8_0"
    assert types("--token-embedding-type", "q5_k")["token_embd.weight"] == "Q5_K"
    chosen = types("--tensor-type", r"blk\.1\.ffn=q5_1", "--tensor-type", "ffn=Q8_0")
    assert chosen["blk.1.ffn_up_exps.weight"] == "Q5_1" and chosen["blk.0.ffn_up.weight"] == "Q8_0"
    assert types("--imatrix", folder / "imatrix.gguf") == types()


def test_help_names_every_mix():
    text = CliRunner().invoke(command, ["--help"]).output
    words = set(text.replace("(", " ").replace(",", " ").replace(":", " ").split())
    assert mix_names() <= words


# --- bad input: each one clear line -----------------------------------------------------------------------------------


def test_missing_arguments(refused, model):
    assert "expected IN.gguf OUT.gguf TYPE" in refused(2, model)
    assert "expected IN.gguf OUT.gguf TYPE" in refused(2, model, "Q4_K_M")


def test_missing_file(refused, tmp_path):
    assert refused(2, tmp_path / "absent.gguf", tmp_path / "o.gguf", "Q8_0").endswith("absent.gguf: no such file")


def test_not_a_gguf(refused, tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    assert "not a GGUF file" in refused(1, tmp_path / "text.gguf", tmp_path / "o.gguf", "Q8_0")


def test_truncated(refused, model, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:-500])
    assert "it is truncated; fetch it again" in refused(1, tmp_path / "cut.gguf", tmp_path / "o.gguf", "Q8_0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["Q4_KM"], "unknown type 'Q4_KM'; did you mean Q4_K_M"),
        (["I32"], "I32 is not a type for weights"),
        (["Q8_0", "--output-tensor-type", "Q6_X"], "unknown type 'Q6_X'; did you mean Q6_K"),
        (["Q8_0", "--token-embedding-type", "Q4_K_M"], "unknown type 'Q4_K_M'"),
        (["Q8_0", "--tensor-type", "attn_v"], "'attn_v': expected REGEX=TYPE"),
        (["Q8_0", "--tensor-type", "attn_(v=Q8_0"], "not a regular expression"),
        (["Q8_0", "--tensor-type", "attn_v=Q8_1x"], "unknown type 'Q8_1x'"),
    ],
)
def test_unknown_types_suggest_the_near_ones(refused, model, tmp_path, options, words):
    assert words in refused(2, model, tmp_path / "o.gguf", *options)


def test_an_imatrix_that_does_not_belong(refused, model, tmp_path, folder):
    other = tmp_path / "other.dat"
    other.write_bytes(
        b"\1\0\0\0" + b"\6\0\0\0blk.99" + b"\1\0\0\0\4\0\0\0" + b"\0\0\x80\x3f" * 4 + b"\1\0\0\0" + b"\1\0\0\0x"
    )
    line = refused(1, model, tmp_path / "o.gguf", "Q4_0", "--imatrix", other)
    assert "no entry is for a tensor of this model (the first one is for blk.99)" in line
    assert "holds no importance data" in refused(1, model, tmp_path / "o.gguf", "Q4_0", "--imatrix", model)
    assert "no such file" in refused(2, model, tmp_path / "o.gguf", "Q4_0", "--imatrix", folder / "none.gguf")


@pytest.mark.parametrize("link", ["itself", "symlink", "hardlink", "part"])
def test_output_is_the_input(refused, model, tmp_path, link):
    copy, output = tmp_path / "copy.gguf", tmp_path / "other.gguf"
    copy.write_bytes(model.read_bytes())
    if link == "itself":
        output = copy
    elif link == "symlink":
        output.symlink_to(copy)
    elif link == "hardlink":
        os.link(copy, output)
    else:  # the name under which the output is written at first
        os.link(copy, tmp_path / "other.gguf.part")
    assert "is an input as well" in refused(2, copy, output, "BF16")
    assert copy.read_bytes() == model.read_bytes()


def test_output_is_the_imatrix(refused, model, folder):
    before = (folder / "imatrix.gguf").read_bytes()
    refused(2, model, folder / "imatrix.gguf", "BF16", "--imatrix", folder / "imatrix.gguf")
    assert (folder / "imatrix.gguf").read_bytes() == before


def test_places_that_cannot_be_written(refused, model, tmp_path):
    assert "is a folder" in refused(2, model, tmp_path, "BF16")
    assert "does not exist" in refused(2, model, tmp_path / "none" / "o.gguf", "BF16")


def test_quantized_input_needs_permission(run, refused, model, tmp_path):
    assert run("quantize", model, tmp_path / "q.gguf", "IQ4_NL", "--pure").code == 0
    line = refused(2, tmp_path / "q.gguf", tmp_path / "o.gguf", "F16")
    assert "is IQ4_NL already" in line and "--allow-requantize" in line
    assert run("quantize", tmp_path / "q.gguf", tmp_path / "o.gguf", "F16", "--allow-requantize").code == 0


def test_types_that_need_an_imatrix(refused, model, tmp_path):
    assert "IQ2_XXS is useless without an imatrix" in refused(2, model, tmp_path / "o.gguf", "IQ2_XXS")


def test_a_full_disk(model, tmp_path):
    """A limit on the file size stands in for a small disk, in a process of its own."""
    words = [sys.executable, "-m", "quanttool", "quantize", str(model), str(tmp_path / "o.gguf"), "BF16"]

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=small_disk)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'o.gguf'}: cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_go_on(run, model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("quanttool.container.writer.GGUFWriter.write_rows", interrupt)
        outcome = run("quantize", model, tmp_path / "o.gguf", "BF16")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == f"interrupted; the same command goes on from {tmp_path / 'o.gguf'}.part"
    assert run("quantize", model, tmp_path / "o.gguf", "BF16").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["o.gguf"]


def test_reports_and_reuse_are_checked_before_the_work(refused, model, tmp_path):
    assert "is an input as well" in refused(2, model, tmp_path / "o.gguf", "BF16", "--report", model)
    assert "no such file" in refused(2, model, tmp_path / "o.gguf", "BF16", "--reuse", tmp_path / "none.gguf")


def test_what_is_used_of_an_imatrix(run, refused, folder, model, tmp_path):
    def metadata(*options) -> dict:
        outcome = run("quantize", "--imatrix", folder / "imatrix.gguf", *options, model, tmp_path / "o.gguf", "Q8_0")
        assert outcome.code == 0, outcome.err
        return {**GGUFFile(tmp_path / "o.gguf").metadata, "err": outcome.err}

    assert "never saw 3 of its matrices (experts); they get the average of their tensor" in metadata()["err"]
    assert "all their channels count the same" in metadata("--imatrix-rules", "llama.cpp")["err"]
    few = metadata("--include-weights", "attn_q", "--include-weights", "attn_k")
    assert few["quantize.imatrix.entries_count"] == 2
    assert metadata("--exclude-weights", "exps")["quantize.imatrix.entries_count"] == 9
    hidden = metadata("--hide-imatrix")
    assert hidden["quantize.imatrix.file"] == hidden["quantize.imatrix.dataset"] == "top_secret"
    assert hidden["quantize.imatrix.entries_count"] == hidden["quantize.imatrix.chunks_count"] == 0
    assert "quanttool.imatrix.sha256" not in hidden
    both = ("--include-weights", "a", "--exclude-weights", "b")
    assert "exclude each other" in refused(
        2, model, tmp_path / "x.gguf", "Q8_0", "--imatrix", folder / "imatrix.gguf", *both
    )


def test_calibrate_rounds_the_layers_with_a_text_and_needs_no_imatrix(run, tiny_model, tmp_path):
    text, out = tmp_path / "long.txt", tmp_path / "out.gguf"
    text.write_text("Six dry ducks sit on a log and look at a big red sun. " * 400)
    report = tmp_path / "report.json"
    result = run("quantize", "--calibrate", text, "--report", report, "--pure", tiny_model, out, "Q4_0")
    assert result.code == 0, result.err
    assert "attn_output" in result.out and "kept plain" in result.out and "KLD on held-out chunks" in result.err
    brought = json.loads(report.read_text())["calibration"]
    assert 0 < brought["kld"]["feedback"] < brought["kld"]["plain"]
    weights = [name for name in GGUFFile(out).tensors if name.startswith("blk.") and "norm" not in name]
    assert sorted(tensor["name"] for tensor in brought["tensors"]) == sorted(weights)
    assert all(tensor["error"] <= tensor["plain"] for tensor in brought["tensors"] if not tensor["kept_plain"])
    file = GGUFFile(out)
    assert "512" in file.metadata["quanttool.calibration"]
    plain = tmp_path / "plain.gguf"
    assert run("quantize", "--pure", tiny_model, plain, "Q4_0").code == 0
    same = [name for name in file.tensors if np.array_equal(file.data(name), GGUFFile(plain).data(name))]
    assert "output.weight" in same and not any("attn_" in name and file.tensors[name].n_rows > 1 for name in same)


def test_calibrate_refuses_a_text_that_is_too_short(run, tiny_model, text, tmp_path):
    result = run("quantize", "--calibrate", text, tiny_model, tmp_path / "out.gguf", "Q4_0")
    assert result.code != 0 and "Traceback" not in result.err


def test_hessian_rounds_by_covariances_from_a_file(run, tiny_model, text, tmp_path):
    hessian, out, plain = tmp_path / "hessian.gguf", tmp_path / "out.gguf", tmp_path / "plain.gguf"
    imatrix = tmp_path / "imatrix.gguf"
    assert run("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--hessian", "full", "-o", imatrix).code == 0
    hessian = next(path for path in tmp_path.glob("*") if "hessian" in path.name)
    result = run("quantize", "--hessian", hessian, "--pure", tiny_model, out, "Q4_0")
    assert result.code == 0, result.err
    assert run("quantize", "--imatrix", imatrix, "--pure", tiny_model, plain, "Q4_0").code == 0
    name = "blk.1.attn_q.weight"
    assert not np.array_equal(GGUFFile(out).data(name), GGUFFile(plain).data(name))
    assert run("quantize", "--hessian", hessian, "--calibrate", text, tiny_model, out, "Q4_0").code != 0

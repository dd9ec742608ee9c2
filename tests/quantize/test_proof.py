"""Proof and provenance: errors as computed another way, blocks that are not finite, tensors of earlier files."""

import hashlib
import json

import click
import numpy as np
import pytest

from quanttool.cli.quantize import command
from quanttool.container import GGUFFile, GGUFWriter
from quanttool.container.writer import copied
from quanttool.errors import QuantizeError, UsageError
from quanttool.formats import block_format, dequantize_rows
from quanttool.imatrix import load, save
from quanttool.quantize import run as run_module

from .small_model import SHAPES, values, write_imatrix, write_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.gguf")
    write_imatrix(tmp_path / "imatrix.gguf")
    return tmp_path


def quantize(*arguments) -> None:
    command.main([str(argument) for argument in arguments], standalone_mode=False)


def computed(monkeypatch) -> list[str]:
    """Names of tensors whose slabs are converted from now on."""
    names, convert = [], run_module._converted
    monkeypatch.setattr(
        run_module, "_converted", lambda slab, *a: (names.append(slab.tensor.name), convert(slab, *a))[1]
    )
    return names


def test_the_report_has_the_errors_of_what_was_written(folder, capsys):
    quantize("--imatrix", "imatrix.gguf", "--report", "r.json", "model.gguf", "out.gguf", "Q8_0")
    report = json.loads((folder / "r.json").read_text())
    written = GGUFFile("out.gguf")
    entries = {entry["name"]: entry for entry in report["tensors"]}
    assert set(entries) == set(SHAPES) and "plain_error" not in entries["output_norm.weight"]
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight", "output.weight"):
        ne, kind = SHAPES[name], written.tensors[name].type
        weights = values(name, int(np.prod(ne))).reshape(-1, ne[0]).astype(np.float64)
        difference = weights - dequantize_rows(written.data(name), kind.name, ne[0])
        assert entries[name]["plain_error"] == pytest.approx((difference**2).sum() / (weights**2).sum(), rel=1e-12)
        assert entries[name]["maximum"] == np.abs(difference).max()
        assert entries[name]["bytes"] == written.tensors[name].n_bytes and entries[name]["seconds"] > 0
        assert entries[name]["weighted_error"] == entries[name]["plain_error"]  # Q8_0 ignores importance
    assert report["total"]["file_bytes"] == (folder / "out.gguf").stat().st_size
    assert report["classes"]["attn_v"]["tensors"] == 2 and report["classes"]["attn_v"]["types"] == ["Q8_0"]
    shown = capsys.readouterr().out
    assert "weighted error" in shown and "ffn_up_exps" in shown


def test_weighted_errors_use_each_experts_importance(folder):
    quantize(
        "--imatrix",
        "imatrix.gguf",
        "--imatrix-rules",
        "llama.cpp",
        "--report",
        "r.json",
        "--pure",
        "model.gguf",
        "out.gguf",
        "IQ4_NL",
    )
    entries = {entry["name"]: entry for entry in json.loads((folder / "r.json").read_text())["tensors"]}
    name, importance = "blk.1.ffn_up_exps.weight", load("imatrix.gguf").importance("blk.1.ffn_up_exps.weight")
    weights = values(name, int(np.prod(SHAPES[name]))).reshape(4, 256, 512).astype(np.float64)
    data = GGUFFile("out.gguf").data(name)
    difference = weights - dequantize_rows(data, "IQ4_NL", 512).reshape(weights.shape)
    by_expert = importance[:, None, :].astype(np.float64)
    expected = (by_expert * difference**2).sum() / (by_expert * weights**2).sum()
    assert entries[name]["weighted_error"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_written_block_that_is_not_finite_is_an_error(folder, monkeypatch, value):
    q8_0 = block_format("Q8_0")

    def broken(rows, importance, search, out):
        type(q8_0).quantize(q8_0, rows, importance, search, out)
        out[3, 34:36] = np.array([value], np.float16).view(np.uint8)

    monkeypatch.setattr(q8_0, "quantize", broken)
    with pytest.raises(
        QuantizeError, match=r"output\.weight: row 3, column 32: the Q8_0 block that was written is not"
    ):
        quantize("model.gguf", "out.gguf", "Q8_0", "-t", "1")
    assert not (folder / "out.gguf").exists()


def test_provenance_says_how_the_file_was_made(folder):
    quantize("--imatrix", "imatrix.gguf", "--tensor-type", "attn_v=q8_0", "model.gguf", "out.gguf", "IQ4_NL")
    made = GGUFFile("out.gguf").metadata
    assert made["quanttool.recipe"] == "IQ4_NL\nattn_v=q8_0" and made["quanttool.search"] == "reference"
    assert "quanttool.mix_rules" not in made
    assert made["quanttool.version"] == "0.1.0" and len(made["quanttool.tensor_keys"]) == len(SHAPES)
    digest = hashlib.sha256()
    for name, tensor in GGUFFile("model.gguf").tensors.items():
        digest.update(
            f"{name} {tensor.type} {tensor.ne}".encode() + values(name, int(np.prod(tensor.ne))).tobytes()[:4096]
        )
    assert made["quanttool.source.sha256"] == digest.hexdigest()
    quantize("--mix-rules", "llama.cpp", "model.gguf", "theirs.gguf", "IQ4_NL")
    assert GGUFFile("theirs.gguf").metadata["quanttool.mix_rules"] == "llama.cpp"
    quantize("--no-provenance", "model.gguf", "plain.gguf", "IQ4_NL")
    assert not any(key.startswith("quanttool.") for key in GGUFFile("plain.gguf").metadata)
    quantize("--allow-requantize", "--no-provenance", "out.gguf", "again.gguf", "Q8_0")  # nothing stale
    assert not any(key.startswith("quanttool.") for key in GGUFFile("again.gguf").metadata)
    quantize("out.gguf", "copy.gguf", "COPY")
    copy = GGUFFile("copy.gguf").metadata
    assert {key: copy.raw(key) for key in copy} == {key: made.raw(key) for key in made}


def test_a_dry_run_of_a_header_knows_the_size_with_provenance(folder, capsys):
    quantize("model.gguf", "out.gguf", "Q8_0")
    start = GGUFFile("model.gguf").data_start
    (folder / "header.gguf").write_bytes((folder / "model.gguf").read_bytes()[:start])
    capsys.readouterr()
    quantize("--dry-run", "header.gguf", "Q8_0")
    assert f"{(folder / 'out.gguf').stat().st_size:,} bytes in the file" in capsys.readouterr().out


def test_reuse_computes_only_what_changed(folder, monkeypatch):
    base = ("--imatrix", "imatrix.gguf", "--pure", "model.gguf")
    quantize(*base, "first.gguf", "IQ4_NL")
    options = ("--tensor-type", "attn_q=q8_0")
    quantize(*options, *base, "whole.gguf", "IQ4_NL")
    names = computed(monkeypatch)
    quantize("--reuse", "first.gguf", *options, *base, "second.gguf", "IQ4_NL")
    assert set(names) == {"blk.0.attn_q.weight"}
    assert (folder / "second.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()


def test_reuse_notices_importance_and_weights(folder, monkeypatch):
    quantize("--imatrix", "imatrix.gguf", "--pure", "model.gguf", "first.gguf", "IQ4_NL")
    imatrix = load("imatrix.gguf")
    imatrix.entries["blk.0.attn_k.weight"].sums_of_squares[0, 5] *= 2
    save(imatrix, folder / "other.gguf")
    file = GGUFFile("model.gguf")
    with GGUFWriter("changed.gguf", copied(file.metadata), file.tensors.values()) as writer:
        for name in file.tensors:
            writer.write_rows(name, 0, file.data(name))
        writer.write_rows("blk.0.attn_v.weight", 0, np.ones((1, 512), np.float32).view(np.uint8))
    names = computed(monkeypatch)
    quantize("--reuse", "first.gguf", "--imatrix", "other.gguf", "--pure", "changed.gguf", "second.gguf", "IQ4_NL")
    assert set(names) == {"blk.0.attn_k.weight", "blk.0.attn_v.weight"}


def test_reuse_needs_a_file_with_provenance(folder):
    quantize("--no-provenance", "model.gguf", "first.gguf", "Q8_0")
    with pytest.raises(UsageError, match=r"first\.gguf: does not say what its tensors were made from"):
        quantize("--reuse", "first.gguf", "model.gguf", "second.gguf", "Q8_0")
    with pytest.raises(UsageError, match="is an input as well"):
        quantize("--reuse", "first.gguf", "model.gguf", "first.gguf", "Q8_0")


def test_a_resumed_run_reports_every_tensor(folder, monkeypatch):
    quantize("--report", "whole.json", "model.gguf", "whole.gguf", "Q8_0", "-t", "1")
    convert, count = run_module._converted, iter(range(7))

    def interrupted(*arguments):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return convert(*arguments)

    with monkeypatch.context() as patch, pytest.raises(click.Abort):  # what click makes of Ctrl-C
        patch.setattr(run_module, "_converted", interrupted)
        quantize("model.gguf", "out.gguf", "Q8_0", "-t", "1")
    assert (folder / "out.gguf.part").exists()
    quantize("--report", "out.json", "model.gguf", "out.gguf", "Q8_0", "-t", "1")

    def without_times(name: str) -> list:
        return [{**entry, "seconds": 0} for entry in json.loads((folder / name).read_text())["tensors"]]

    assert without_times("out.json") == without_times("whole.json")

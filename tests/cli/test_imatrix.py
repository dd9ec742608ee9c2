"""quanttool imatrix, from the outside."""

import hashlib
import json
import os
import re

import numpy as np
import pytest

from quanttool.cli.console import Size
from quanttool.container import GGUFFile
from quanttool.imatrix import Entry, Imatrix, load, save
from quanttool.imatrix.hessian import HessianFile
from quanttool.models import Model, scratch
from tests.models import tiny


def values(imatrix):
    return {name: (entry.sums_of_squares, entry.counts) for name, entry in imatrix.entries.items()}


def assert_close(a, b):
    assert a.entries.keys() == b.entries.keys()
    for name, entry in a.entries.items():
        assert np.array_equal(entry.counts, b.entries[name].counts)
        np.testing.assert_allclose(entry.sums_of_squares, b.entries[name].sums_of_squares, rtol=1e-5)


def test_writes_an_imatrix_and_prints_what_people_expect(run, tiny_model, text, tmp_path):
    out = tmp_path / "x.gguf"
    result = run("imatrix", "-m", tiny_model, "-f", text, "-o", out, "-c", 32)
    assert result.code == 0
    assert re.fullmatch(r"(\[\d\]\d+\.\d{4},){5}\nFinal estimate: PPL = \d+\.\d{4} \+/- \d+\.\d{5}\n", result.out), (
        result.out
    )
    data = load(out)
    blocks = {n for n, t in GGUFFile(tiny_model).tensors.items() if n.startswith("blk.") and len(t.ne) == 2}
    assert data.entries.keys() == blocks
    assert {entry.counts[0] for entry in data.entries.values()} == {160}
    assert (data.datasets, data.chunk_count, data.chunk_size) == (["text.txt"], 5, 32)
    assert not list(tmp_path.glob("*.part"))


def test_same_input_same_bytes(run, tiny_model, text, tmp_path):
    for name in ("a", "b"):
        run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / name, "-c", 32, "--no-ppl", "-t", 1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dat(run, tiny_model, text, tmp_path):
    run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x.gguf", "-c", 32)
    run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x.dat", "-c", 32, "--output-format", "dat")
    legacy, data = load(tmp_path / "x.dat"), load(tmp_path / "x.gguf")
    assert (legacy.chunk_size, legacy.chunk_count, legacy.datasets) == (0, 5, ["text.txt"])
    for name in data.entries:
        np.testing.assert_allclose(legacy.importance(name), data.importance(name), rtol=1e-6)


def test_json(run, tiny_model, text, tmp_path):
    result = run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x", "-c", 32, "--json")
    plain = run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "y", "-c", 32)
    summary = json.loads(result.out)
    assert summary["weights"] == 14 and summary["n_chunks"] == 5 and summary["datasets"] == ["text.txt"]
    assert plain.out.startswith("".join(f"[{i + 1}]{x:.4f}," for i, x in enumerate(summary["running"])))
    assert summary["running"][-1] == pytest.approx(summary["perplexity"]["value"])


def test_no_ppl(run, tiny_model, text, tmp_path):
    result = run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x", "-c", 32, "--no-ppl")
    assert result.code == 0 and result.out == ""


def test_process_output(run, tiny_model, text, tmp_path):
    run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x", "-c", 32, "--process-output")
    entry = load(tmp_path / "x").entries["output.weight"]
    assert entry.counts.tolist() == [160] and (entry.sums_of_squares > 0).all()


def test_chunks_and_from_chunk_cut_the_same_text(run, tiny_model, text, tmp_path):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o")
    run(*options, tmp_path / "all")
    run(*options, tmp_path / "first", "--chunks", 3)
    run(*options, tmp_path / "rest", "--from-chunk", 3)
    whole, first, rest = (load(tmp_path / name) for name in ("all", "first", "rest"))
    assert (first.chunk_count, rest.chunk_count) == (3, 2)
    for name, entry in first.entries.items():
        entry.sums_of_squares += rest.entries[name].sums_of_squares
        entry.counts += rest.entries[name].counts
    assert_close(first, whole)


def test_several_texts_follow_each_other(run, tiny_model, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Nine old cows nap in the sun, far from the road to town and its big loud cars.")
    run("imatrix", "-m", tiny_model, "-f", text, "-f", other, "-c", 32, "-o", tmp_path / "x", "--no-ppl")
    data = load(tmp_path / "x")
    assert data.datasets == ["text.txt", "other.txt"] and data.chunk_count == 7


def test_a_file_in_place_of_memory_changes_nothing(run, tiny_model, text, tmp_path, monkeypatch):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--process-output", "-o")
    whole = run(*options, tmp_path / "a", "--memory", "1G")
    rooms = []
    monkeypatch.setattr(scratch, "_reserve", lambda descriptor, n: (rooms.append(n), os.ftruncate(descriptor, n)))
    assert run(*options, tmp_path / "b", "--memory", "1K").out == whole.out
    assert rooms == [5 * 32 * tiny.N_EMBD * 4]  # one pass for all chunks
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_memory_is_a_size(run, tiny_model, text, tmp_path):
    result = run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x", "--memory", "much")
    assert result.code == 2 and "'much' is no size; give one like 500M or 2G" in result.err
    sizes = {"12": 12, "1K": 1024, "1.5m": 3 << 19, "2GB": 2 << 30, "1TiB": 1 << 40}
    assert {given: Size().convert(given, None, None) for given in sizes} == sizes


def test_errors_count_chunks_over_the_whole_text(run, text, tmp_path):
    metadata, tensors = tiny.llama()
    tensors["token_embd.weight"][tiny.ascii_tokenizer()["tokenizer.ggml.tokens"].index("x")] = np.nan
    model = tiny.write(tmp_path / "nan.gguf", metadata | tiny.ascii_tokenizer(), tensors)
    text.write_text("a" * 130 + "x" * 60)  # with BOS, chunk 5 of 32 has the first
    for options in ([], ["--from-chunk", 2], ["--output-frequency", 3]):
        result = run("imatrix", "-m", model, "-f", text, "-c", 32, "-o", tmp_path / "x", *options)
        assert result.code == 1 and "in chunk 5" in result.err
    result = run("perplexity", "-m", model, "-f", text, "-c", 32)
    assert result.code == 1 and "hidden states of chunk 5 are not finite" in result.err


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_parts_merge_to_the_whole(run, tiny_model, text, tmp_path, suffix):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "--output-format", suffix, "-o")
    run(*options, tmp_path / "all")
    run(*options, tmp_path / "first", "--chunks", 3)
    run(*options, tmp_path / "rest", "--from-chunk", 3)
    both = ("--in-file", tmp_path / "first", "--in-file", tmp_path / "rest")
    result = run("imatrix", *both, "-c", 32, "-o", tmp_path / "both")
    assert result.code == 0
    merged = load(tmp_path / "both")
    assert (merged.chunk_count, merged.chunk_size, merged.datasets) == (5, 32, ["text.txt", "text.txt"])
    assert_close(merged, load(tmp_path / "all").in_rows(32))


def test_an_earlier_file_is_added_to(run, tiny_model, text, tmp_path):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o")
    run(*options, tmp_path / "all")
    run(*options, tmp_path / "first", "--chunks", 3)
    run(*options, tmp_path / "both", "--from-chunk", 3, "--in-file", tmp_path / "first")
    assert_close(load(tmp_path / "both"), load(tmp_path / "all"))
    assert load(tmp_path / "both").chunk_count == 5


def test_files_of_different_models_are_not_merged(run, tiny_model, text, tmp_path):
    run("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o", tmp_path / "a")
    other = load(tmp_path / "a")
    other.entries["blk.0.attn_q.weight"] = Entry(np.ones((1, 100)), np.ones(1, np.int64))
    save(other, tmp_path / "b")
    result = run("imatrix", "--in-file", tmp_path / "a", "--in-file", tmp_path / "b", "-o", tmp_path / "c")
    assert result.code == 1 and "b: blk.0.attn_q.weight has 100 channels, 256 in the files before" in result.err
    assert not (tmp_path / "c").exists()


def test_experts_without_data_are_counted_in_a_warning(run, tmp_path):
    counts = [np.array([5, 0, 3, 0]), np.array([0, 1, 3, 4]), np.array([1, 1, 3, 3])]
    data = Imatrix(
        {f"blk.{i}.ffn_up_exps.weight": Entry(np.ones((4, 8)), c) for i, c in enumerate(counts)}, ["t"], 1, 8
    )
    save(data, tmp_path / "a")
    result = run("imatrix", "--in-file", tmp_path / "a", "-o", tmp_path / "b")
    expected = "never reached 3 experts of 2 weights (most in blk.0.ffn_up_exps.weight: 2 of 4)"
    assert result.code == 0 and expected in result.err
    assert load(tmp_path / "b").entries["blk.0.ffn_up_exps.weight"].counts.tolist() == [5, 0, 3, 0]
    table = run("imatrix", "--in-file", tmp_path / "b", "--show-statistics").out
    assert re.search(r"\n +0 +4 +2 +0 +3 +5 +47.72 %", table) and re.search(r"\n +2 +4 +0 +1 +3 +3 +90.56 %", table)


def test_show_statistics(run, tiny_model, text, tmp_path):
    run("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o", tmp_path / "a")
    table = run("imatrix", "--in-file", tmp_path / "a", "--show-statistics").out
    assert table.count("attn_q") == 2 and "Layers, averaged over channels" in table
    summary = json.loads(run("imatrix", "--in-file", tmp_path / "a", "--show-statistics", "--json").out)
    assert len(summary["weight_statistics"]) == 14
    assert [layer["layer"] for layer in summary["layer_statistics"]] == [0, 1]
    for weight in summary["weight_statistics"]:
        assert f"{weight['total']:.2f}" in table


def test_the_file_says_where_it_comes_from(run, tiny_model, text, tmp_path):
    run("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o", tmp_path / "a")
    said = load(tmp_path / "a").provenance
    assert said["text_sha256"] == hashlib.sha256(text.read_bytes()).hexdigest()
    assert said["options"] == "-c 32 --precision f32" and said["program"].startswith("quanttool ")
    assert len(said["model_fingerprint"]) == 64
    run("imatrix", "--in-file", tmp_path / "a", "-o", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_precision(run, tiny_model, text, tmp_path):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o")
    run(*options, tmp_path / "auto")
    run(*options, tmp_path / "bf16", "--precision", "bf16")
    auto, bf16 = load(tmp_path / "auto"), load(tmp_path / "bf16")
    assert bf16.provenance["options"] == "-c 32 --precision bf16"
    name = "blk.1.ffn_down.weight"
    found, expected = bf16.entries[name].sums_of_squares, auto.entries[name].sums_of_squares
    assert (found != expected).any()
    np.testing.assert_allclose(found, expected, rtol=0.2)


def test_copies_are_kept(run, tiny_model, text, tmp_path):
    run("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o", tmp_path / "a", "--save-frequency", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.at_2", "a.at_4", "text.txt"]
    run("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "-o", tmp_path / "b", "--chunks", 4)
    kept = load(tmp_path / "a.at_4")
    assert kept.chunk_count == 4
    assert_close(kept, load(tmp_path / "b"))


@pytest.mark.parametrize("kind", ["block", "full"])
def test_hessian(run, tiny_model, text, tmp_path, kind):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--no-ppl", "--hessian", kind, "-o")
    result = run(*options, tmp_path / "a", "--process-output", "--save-frequency", 2)  # passes of two chunks
    assert result.code == 0 and "a.hessian: 15 weights" in result.err
    data, file = load(tmp_path / "a"), HessianFile(tmp_path / "a.hessian")
    assert set(file.weights) == set(data.entries) and file.kind == kind
    for name, entry in data.entries.items():
        assert np.array_equal(file.counts(name), entry.counts)
        squares = np.diagonal(file[name][0], axis1=-2, axis2=-1).ravel()[: entry.sums_of_squares.size]
        np.testing.assert_allclose(squares, entry.sums_of_squares[0], rtol=1e-5)


def test_layer_similarity(run, tiny_model, text, tmp_path):
    options = (
        "imatrix",
        "-m",
        tiny_model,
        "-f",
        text,
        "-c",
        32,
        "--no-ppl",
        "--layer-similarity",
        "-o",
        tmp_path / "a",
    )
    table = run(*options).out
    summary = json.loads(run(*options, "--json").out)
    assert [layer["layer"] for layer in summary["layer_similarity"]] == [0, 1] and summary["expert_saliency"] == []
    for layer in summary["layer_similarity"]:
        assert re.search(
            rf"\n +{layer['layer']} +{layer['whole']:.6f} +{layer['attention']:.6f} +{layer['ffn']:.6f}", table
        )


class Interrupted:
    """Stops a model's forward pass with Ctrl-C when it is called for the third time."""

    def __init__(self, hidden_states):
        self.hidden_states, self.calls = hidden_states, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return self.hidden_states(*arguments)


@pytest.mark.parametrize("ppl", [[], ["--no-ppl"]])
def test_a_resumed_run_equals_an_uninterrupted_one_byte_for_byte(run, tiny_model, text, tmp_path, monkeypatch, ppl):
    options = ("imatrix", "-m", tiny_model, "-f", text, "-c", 32, "--output-frequency", 1, *ppl, "-o")
    whole = run(*options, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stopping = Interrupted(Model.hidden_states)
        patch.setattr(Model, "hidden_states", lambda *arguments: stopping(*arguments))
        assert run(*options, tmp_path / "resumed").code == 130
    assert not (tmp_path / "resumed").exists()
    result = run(*options, tmp_path / "resumed")
    assert result.code == 0 and "going on after 2 chunks" in result.err
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert result.out.replace("\n", "") == whole.out.replace("\n", "")
    assert not list(tmp_path.glob("*.checkpoint"))


def test_special_tokens(run, tiny_model, tmp_path):
    path = tmp_path / "special.txt"
    path.write_text("<|unused0|>" * 64)
    result = run("imatrix", "-m", tiny_model, "-f", path, "-c", 32, "-o", tmp_path / "x", "--parse-special")
    assert load(tmp_path / "x").chunk_count == 2 and "65 tokens" in result.err
    result = run("imatrix", "-m", tiny_model, "-f", path, "-c", 32, "-o", tmp_path / "x")
    assert "705 tokens" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-m", "absent.gguf", "-f", "TEXT", "-o", "OUT"], 2, "absent.gguf: no such file"),
        (["-m", "TEXT", "-f", "TEXT", "-o", "OUT"], 1, "not a GGUF file"),
        (["-m", "MODEL", "-f", "absent.txt", "-o", "OUT"], 2, "absent.txt: no such file"),
        (["-m", "MODEL", "-o", "OUT"], 2, "nothing to do"),
        (["-m", "MODEL", "-f", "TEXT"], 2, "no file to write"),
        (["-f", "TEXT", "-o", "OUT"], 2, "a text needs a model"),
        (["-o", "OUT"], 2, "nothing to do"),
        (["--in-file", "absent.dat", "-o", "OUT"], 2, "absent.dat: no such file"),
        (["--in-file", "TEXT", "-o", "OUT"], 1, "no imatrix file at all"),
        (["--in-file", "MODEL", "-o", "OUT"], 1, "holds no importance data"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "OUT"], 2, "163 tokens; a context of 512 needs at least 1024"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "OUT", "-c", "32", "--from-chunk", "4"], 2, "after skipping 4 chunks"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "MODEL", "-c", "32"], 2, "is an input as well"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "TEXT", "-c", "32"], 2, "is an input as well"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "absent/x", "-c", "32"], 2, "the folder absent does not exist"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "FOLDER", "-c", "32"], 2, "is a folder"),
        (["-m", "MODEL", "-f", "MODEL", "-o", "OUT", "-c", "32"], 2, "is not UTF-8 text"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "OUT", "-c", "2"], 2, "-c"),
        (["-m", "MODEL", "-f", "TEXT", "-o", "OUT", "--output-format", "npz"], 2, "npz"),
        (
            ["-m", "MODEL", "-f", "TEXT", "-o", "OUT", "--hessian", "full", "--output-frequency", "9"],
            2,
            "--hessian needs one uninterrupted run",
        ),
        (["-m", "MODEL", "-f", "TEXT", "-o", "OUT", "-c", "32", "--all-experts"], 2, "has no experts to show all of"),
        (["--in-file", "TEXT", "-o", "OUT", "--all-experts"], 2, "--all-experts needs one uninterrupted run"),
    ],
)
def test_mistakes_are_one_clear_line(run, tiny_model, text, tmp_path, arguments, code, message):
    out = tmp_path / "out.gguf"
    known = {"MODEL": tiny_model, "TEXT": text, "OUT": out, "FOLDER": tmp_path}
    before = text.read_bytes()
    result = run("imatrix", *(known.get(argument, argument) for argument in arguments))
    assert result.code == code and message in result.err and "Traceback" not in result.err
    assert not out.exists() and text.read_bytes() == before


def test_nan_in_the_model_saves_nothing(run, text, tmp_path):
    metadata, tensors = tiny.llama()
    tensors["blk.1.ffn_norm.weight"][3] = np.nan
    model = tiny.write(tmp_path / "nan.gguf", metadata | tiny.ascii_tokenizer(), tensors)
    result = run("imatrix", "-m", model, "-f", text, "-o", tmp_path / "x", "-c", 32)
    assert result.code == 1
    assert "blk.1.ffn_gate.weight: input channel 3 is nan in chunk 1" in result.err
    assert not (tmp_path / "x").exists()


def test_ctrl_c_leaves_nothing_behind(run, tiny_model, text, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("quanttool.container.writer.GGUFWriter.write_rows", interrupt)
    result = run("imatrix", "-m", tiny_model, "-f", text, "-o", tmp_path / "x", "-c", 32)
    assert result.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]

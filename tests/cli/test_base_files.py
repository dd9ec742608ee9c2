"""quanttool perplexity with base files, from the outside."""

import json

import numpy as np
import pytest

from tests.models import tiny


@pytest.fixture
def base(run, tiny_model, text, tmp_path):
    """base("llama.cpp") -> path of a base file of the tiny model."""

    def write(base_format="hidden", *options):
        path = tmp_path / f"base-{base_format}"
        command = ("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--kl-divergence-base", path)
        result = run(*command, "--base-format", base_format, *options)
        assert result.code == 0, result.err
        return path

    return write


def compared(run, model, path, *options):
    result = run("perplexity", "-m", model, "--kl-divergence", "--kl-divergence-base", path, "--json", *options)
    assert result.code == 0, result.err
    (described,) = json.loads(result.out)["models"]
    return described


def test_writing_prints_the_perplexity(run, tiny_model, text, tmp_path):
    plain = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32)
    for base_format in ("hidden", "hidden-bf16", "llama.cpp", "ik_llama.cpp"):
        options = ("--save-all-logits", tmp_path / "base", "--base-format", base_format)
        assert run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, *options).out == plain.out


@pytest.mark.parametrize("options", [(), ("--embed-output",)])
def test_a_file_of_hidden_states_gives_what_the_model_gives(run, tiny_model, rounded_model, text, base, options):
    in_one_go = ("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--json")
    (expected,) = json.loads(run(*in_one_go).out)["models"]
    path = base("hidden", *options)
    assert compared(run, rounded_model, path) == expected
    assert compared(run, rounded_model, path, "-f", text) == expected
    assert compared(run, tiny_model, path)["mean_kld"] == {"value": 0.0, "uncertainty": 0.0}


@pytest.mark.parametrize(("base_format", "tolerance"), [("hidden-bf16", 1e-3), ("llama.cpp", 2e-4)])
def test_rounded_files_are_close(run, tiny_model, rounded_model, text, base, base_format, tolerance):
    exact = compared(run, rounded_model, base())
    found = compared(run, rounded_model, base(base_format))
    assert found != exact
    assert found["mean_kld"]["value"] == pytest.approx(exact["mean_kld"]["value"], rel=tolerance)
    assert found["perplexity"] == exact["perplexity"]


def test_the_two_windows(base):
    """The probabilities of a tiny model all lie within 16 of the largest: both programs then write the same."""
    assert base("llama.cpp").read_bytes() == base("ik_llama.cpp").read_bytes()


def test_fewer_chunks(run, rounded_model, tiny_model, text, base):
    found = compared(run, rounded_model, base(), "--chunks", 2)
    in_one_go = ("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--json")
    assert json.loads(run(*in_one_go, "--chunks", 2).out)["models"] == [found]


def test_the_base_model_may_have_moved(run, tiny_model, rounded_model, text, tmp_path):
    original, path = tmp_path / "original.gguf", tmp_path / "base.gguf"
    original.write_bytes(tiny_model.read_bytes())
    assert run("perplexity", "-m", original, "-f", text, "-c", 32, "--kl-divergence-base", path).code == 0
    original.unlink()
    compare = ("perplexity", "-m", rounded_model, "--kl-divergence", "--kl-divergence-base", path)
    result = run(*compare)
    assert result.code == 2 and f"needs the output matrix of its model, which was {original}" in result.err
    assert run(*compare, "--base-model", tiny_model).code == 0
    result = run(*compare, "--base-model", rounded_model)
    assert result.code == 2 and "its output matrix is not that of the model" in result.err
    with_its_output = run("perplexity", "-m", rounded_model, "-m", tiny_model, *compare[3:], "--json")
    assert json.loads(with_its_output.out)["models"][1]["mean_kld"]["value"] == 0


def other_vocabulary(tmp_path):
    metadata, tensors = tiny.llama()
    metadata |= tiny.ascii_tokenizer()
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"][:-1], "<|other|>"]
    return tiny.write(tmp_path / "other.gguf", metadata, tensors)


def test_what_does_not_belong_together_is_refused(run, tiny_model, rounded_model, text, base, tmp_path):
    other_text = tmp_path / "other.txt"
    other_text.write_text(text.read_text().replace("red", "rad"))
    short_text = tmp_path / "short.txt"
    short_text.write_text(text.read_text()[:100])
    for base_format in ("hidden", "llama.cpp"):
        path = base(base_format)

        def refused(message, *options, model=rounded_model, path=path):
            result = run("perplexity", "-m", model, "--kl-divergence", "--kl-divergence-base", path, *options)
            assert result.code == 2 and message in result.err and result.out == "", result.err

        refused("was written with -c 32, not 64", "-c", 64)
        refused("was written with no --stride, not 8", "--stride", 8)
        refused("has 5 chunks, 6 were asked for", "--chunks", 6)
        refused("they differ in chunk 2", "-f", other_text)
        refused("has 5 chunks", "-f", short_text)
    refused("leave --base-model out", "--base-model", tiny_model)
    path = base()
    refused("its model's vocabulary is not that of", model=other_vocabulary(tmp_path), path=path)
    refused("was written with --precision f32", "--precision", "bf16", path=path)


def test_another_size_of_vocabulary(run, base, tmp_path):
    metadata, tensors = tiny.llama()
    for name in ("token_embd.weight", "output.weight"):
        tensors[name] = np.concatenate([tensors[name], tensors[name][:1]])
    other = tiny.write(tmp_path / "larger.gguf", metadata, tensors)
    for base_format in ("hidden", "llama.cpp"):
        options = ("--kl-divergence", "--kl-divergence-base", base(base_format))
        result = run("perplexity", "-m", other, *options)
        assert result.code == 2 and "is of a vocabulary of 128 tokens" in result.err


def test_damaged_files(run, rounded_model, base, tmp_path):
    damaged = tmp_path / "damaged"
    for base_format in ("hidden", "llama.cpp"):
        data = base(base_format).read_bytes()
        for n_bytes in (4, len(data) // 2, len(data) - 64):
            damaged.write_bytes(data[:n_bytes])
            result = run("perplexity", "-m", rounded_model, "--kl-divergence", "--kl-divergence-base", damaged)
            assert result.code == 1 and "Traceback" not in result.err and str(damaged) in result.err
    damaged.write_bytes(b"no base file at all")
    result = run("perplexity", "-m", rounded_model, "--kl-divergence", "--kl-divergence-base", damaged)
    assert result.code == 1 and "is no base file" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kl-divergence"], "--kl-divergence needs a base"),
        (["--kl-divergence", "--kl-divergence-base", "absent"], "absent: no such file"),
        (["-f", "TEXT", "--kl-divergence-base", "out", "--base-model", "MODEL"], "leave --base-model out"),
        (["-f", "TEXT", "--kl-divergence-base", "out", "-m", "ROUNDED"], "give one -m"),
        (["-f", "TEXT", "--embed-output"], "--embed-output is for base files"),
        (["-f", "TEXT", "--kl-divergence-base", "TEXT"], "is an input as well"),
        (["-f", "TEXT", "--kl-divergence-base", "nowhere/out"], "does not exist"),
    ],
)
def test_options_that_do_not_go_together(run, tiny_model, rounded_model, text, options, message):
    known = {"MODEL": tiny_model, "ROUNDED": rounded_model, "TEXT": text}
    result = run("perplexity", "-m", tiny_model, "-c", 32, *(known.get(option, option) for option in options))
    assert result.code == 2 and message in result.err and result.out == ""

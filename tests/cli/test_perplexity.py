"""quanttool perplexity, from the outside."""

import json
import re

import numpy as np
import pytest

from tests.models import tiny


def test_prints_running_perplexity_and_the_final_line(run, tiny_model, text):
    result = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32)
    assert result.code == 0
    assert re.fullmatch(r"(\[\d\]\d+\.\d{4},){5}\nFinal estimate: PPL = \d+\.\d{4} \+/- \d+\.\d{5}\n", result.out)
    assert "163 tokens; 5 chunks of 32, 15 tokens of each are scored" in result.err


def test_json_has_what_is_printed_with_all_digits(run, tiny_model, text):
    printed = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--chunks", 3).out
    data = json.loads(run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--chunks", 3, "--json").out)
    (model,) = data["models"]
    assert (data["n_tokens"], data["n_ctx"], data["n_chunks"], data["base_model"]) == (163, 32, 3, None)
    running = "".join(f"[{i + 1}]{value:.4f}," for i, value in enumerate(model["running"]))
    estimate = model["perplexity"]
    assert printed == f"{running}\nFinal estimate: PPL = {estimate['value']:.4f} +/- {estimate['uncertainty']:.5f}\n"


def test_a_file_in_place_of_memory_changes_nothing(run, tiny_model, rounded_model, text):
    for others in ([], ["--base-model", rounded_model]):
        options = ("perplexity", "-m", tiny_model, *others, "-f", text, "-c", 32)
        assert run(*options, "--memory", "1K").out == run(*options, "--memory", "1G").out


def test_several_models(run, tiny_model, rounded_model, text):
    result = run("perplexity", "-m", tiny_model, "-m", rounded_model, "-f", text, "-c", 32)
    alone = run("perplexity", "-m", rounded_model, "-f", text, "-c", 32)
    assert alone.out in result.out
    assert result.out.count("Final estimate") == 2
    assert any("rounded.gguf" in line and "±" in line for line in result.out.splitlines())  # the table at the end


# what a script that reads llama-perplexity's output looks for
NUMBER = r" *-?\d+\.\d+"
TABLE_LINE = rf" +\d+ {{4}}{NUMBER} ±{NUMBER} {{4}}{NUMBER} ±{NUMBER} {{4}}{NUMBER} ±{NUMBER} {{4}}{NUMBER} ±{NUMBER} %"


def test_divergence_looks_like_llama_perplexity(run, tiny_model, rounded_model, text, shared):
    text.write_text(text.read_text() * 2)
    result = run("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32)
    assert result.code == 0
    theirs = (shared / "golden" / "kld" / "s768-Q4_0-vs-f32-4chunks.txt").read_text()

    def pattern(printed):
        """Labels and layout, with digits for numbers: what the values are is not their concern."""
        body = printed[printed.index("chunk  ") :].strip()
        return [re.sub(NUMBER, " #", line) for line in body.splitlines() if not re.match(TABLE_LINE, line)]

    assert pattern(result.out) == pattern(theirs)
    assert sum(bool(re.match(TABLE_LINE, line)) for line in result.out.splitlines()) == 10


def test_divergence_json(run, tiny_model, rounded_model, text):
    result = run("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--json")
    (model,) = json.loads(result.out)["models"]
    own = json.loads(run("perplexity", "-m", rounded_model, "-f", text, "-c", 32, "--json").out)["models"][0]
    assert model["perplexity"] == pytest.approx(own["perplexity"], rel=1e-9)
    assert model["mean_kld"]["value"] > 0.001
    quantiles = model["kld_quantiles"]
    assert quantiles["0.0"] < quantiles["0.5"] < quantiles["1.0"]


def test_several_models_against_one_base(run, tiny_model, rounded_model, text):
    result = run(
        "perplexity", "-m", tiny_model, "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--json"
    )
    same, rounded = json.loads(result.out)["models"]
    assert same["mean_kld"] == {"value": 0.0, "uncertainty": 0.0} and same["same_top"]["value"] == 1
    alone = json.loads(
        run("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--json").out
    )
    assert rounded.pop("on_pareto_front") is False
    assert alone["models"] == [rounded]


def test_few_tokens_have_a_table_but_no_quantiles(run, tiny_model, rounded_model, text):
    result = run("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--chunks", 2)
    assert result.out.count("±") == 10 and "statistics" not in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-m", "absent.gguf", "-f", "TEXT"], 2, "absent.gguf: no such file"),
        (["-m", "MODEL", "-f", "absent.txt"], 2, "absent.txt: no such file"),
        (["-m", "MODEL"], 2, "no text"),
        (["-f", "TEXT"], 2, "Missing option '-m'"),
        (["-m", "MODEL", "-f", "TEXT"], 2, "163 tokens; a context of 512 needs at least 1024"),
        (["-m", "MODEL", "-f", "TEXT", "--base-model", "absent.gguf"], 2, "absent.gguf: no such file"),
        (["-m", "MODEL", "-f", "TEXT", "--chunks", "0"], 2, "--chunks"),
    ],
)
def test_mistakes_are_one_clear_line(run, tiny_model, text, arguments, code, message):
    known = {"MODEL": tiny_model, "TEXT": text}
    result = run("perplexity", *(known.get(argument, argument) for argument in arguments))
    assert result.code == code and message in result.err and "Traceback" not in result.err and result.out == ""


def test_models_with_different_vocabularies_are_not_compared(run, tiny_model, text, tmp_path):
    metadata, tensors = tiny.llama()
    metadata |= tiny.ascii_tokenizer()
    names = metadata["tokenizer.ggml.tokens"]
    metadata["tokenizer.ggml.tokens"] = [*names[:-1], "<|other|>"]
    other = tiny.write(tmp_path / "other.gguf", metadata, tensors)
    result = run("perplexity", "-m", other, "--base-model", tiny_model, "-f", text, "-c", 32)
    assert result.code == 2 and f"{other}: its vocabulary is not that of {tiny_model}" in result.err


def test_nan_in_the_model_is_an_error(run, text, tmp_path):
    metadata, tensors = tiny.llama()
    tensors["output.weight"][3, 5] = np.nan
    model = tiny.write(tmp_path / "nan.gguf", metadata | tiny.ascii_tokenizer(), tensors)
    result = run("perplexity", "-m", model, "-f", text, "-c", 32)
    assert result.code == 1 and "logits are not finite" in result.err


def test_divergence_of_a_quantized_file_is_what_llama_perplexity_measured(run, shared, smollm2_768, tmp_path):
    """The first chunk of the reference table: its base file had not yet cut off any token there."""
    quantized = tmp_path / "quantized.gguf"
    assert run("quantize", smollm2_768, quantized, "Q4_0").code == 0
    text = tmp_path / "text.txt"
    text.write_text((shared / "data" / "wiki.test.raw").read_text()[:20000])
    found = run("perplexity", "-m", quantized, "--base-model", smollm2_768, "-f", text, "--chunks", 1).out
    theirs = (shared / "golden" / "kld" / "s768-Q4_0-vs-f32-4chunks.txt").read_text()

    def first_chunk(printed):
        line = next(line for line in printed.splitlines() if line.startswith("   1  "))
        return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]

    assert first_chunk(found) == pytest.approx(first_chunk(theirs), rel=2e-3)


def test_stride_is_what_llama_perplexity_computes(run, shared, smollm2_768, tmp_path):
    """llama-perplexity -c 448 -b 448 --ppl-stride 128 printed this: windows of 512, no rounding up."""
    text = tmp_path / "text.txt"
    text.write_bytes((shared / "data" / "wiki.test.raw").read_bytes()[:12000])
    result = run("perplexity", "-m", smollm2_768, "-f", text, "-c", 448, "--ppl-stride", 128, "--chunks", 2)
    assert result.out.startswith("[1]7.9307,[2]12.1280,\nFinal estimate: PPL = 12.1280 +/- ")


def test_stride_json(run, tiny_model, text):
    result = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--stride", 8, "--json")
    data = json.loads(result.out)
    assert (data["n_ctx"], data["stride"], data["n_scored"], data["n_chunks"]) == (36, 8, 8, 16)
    result = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--stride", 64)
    assert result.code == 2 and "a stride of 64 needs a context of more than 32" in result.err


@pytest.fixture
def long_text(text):
    """25 chunks of 32: enough to compare models."""
    text.write_text("".join(text.read_text().replace("6", str(i)) + f"Line {i}; x = {i * i}" for i in range(5)))
    return text


def test_models_are_compared_by_pairs(run, tiny_model, rounded_model, long_text, tmp_path):
    plot = tmp_path / "plot.svg"
    models = ("-m", rounded_model, "-m", tiny_model)
    command = ("perplexity", *models, "--base-model", tiny_model, "-f", long_text, "-c", 32, "--plot", plot)
    data = json.loads(run(*command, "--json").out)
    (kld,), (nll,) = data["comparisons"]["kld"], data["comparisons"]["nll"]
    rounded, same = data["models"]
    assert (kld["better"], kld["worse"]) == (str(tiny_model), str(rounded_model))
    assert kld["difference"] == pytest.approx(rounded["mean_kld"]["value"], rel=1e-9) and kld["p"] < 0.001
    change = abs(np.log(rounded["perplexity"]["value"] / same["perplexity"]["value"]))
    assert nll["difference"] == pytest.approx(change, rel=1e-9)
    assert rounded["bpw"] == same["bpw"] == 32 and rounded["n_bytes"] == rounded_model.stat().st_size
    assert same["on_pareto_front"] and not rounded["on_pareto_front"]
    assert plot.read_text().startswith("<svg")
    printed = run(*command[:-2]).out
    assert f"{tiny_model} is better than {rounded_model}, p < 0.001: KLD lower by {kld['difference']:.6f} ±" in printed
    assert "● no other model is both smaller and better" in printed


def test_models_are_compared_without_a_base(run, tiny_model, rounded_model, long_text):
    models = ("-m", tiny_model, "-m", rounded_model)
    data = json.loads(run("perplexity", *models, "-f", long_text, "-c", 32, "--json").out)
    assert list(data["comparisons"]) == ["nll"] and len(data["comparisons"]["nll"]) == 1


def test_few_tokens_are_too_few_to_compare(run, tiny_model, rounded_model, text):
    result = run("perplexity", "-m", tiny_model, "-m", rounded_model, "-f", text, "-c", 32)
    assert "too few tokens to tell whether these models differ" in result.out


def test_breakdown(run, tiny_model, rounded_model, long_text):
    command = ("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", long_text, "-c", 32, "--breakdown")
    (model,) = json.loads(run(*command, "--json").out)["models"]
    shares = {part["name"]: part["share"] for part in model["breakdown"]}
    assert sum(share for name, share in shares.items() if name.startswith("kind")) == pytest.approx(1)
    assert sum(share for name, share in shares.items() if name.startswith("place")) == pytest.approx(1)
    assert 0 < shares["kind: digits"] < 0.1 and shares["token: after a newline"] > 0
    printed = run(*command).out
    assert "where the divergence sits" in printed and "kind: digits" in printed


def test_draft(run, tiny_model, rounded_model, text):
    models = ("-m", rounded_model, "-m", tiny_model, "--base-model", tiny_model)
    command = ("perplexity", *models, "-f", text, "-c", 64, "--draft")
    rounded, same = (model["draft"] for model in json.loads(run(*command, "--json").out)["models"])
    assert same["acceptance"]["value"] == pytest.approx(1) and len(rounded["tokens_per_pass"]) == 16
    np.testing.assert_allclose(same["tokens_per_pass"], np.arange(2, 18))
    assert 0.3 < rounded["acceptance"]["value"] < 1
    assert rounded["tokens_per_pass"][0] == pytest.approx(1 + rounded["acceptance"]["value"])
    assert rounded["greedy_tokens_per_pass"][0] == pytest.approx(1 + rounded["greedy_agreement"]["value"])
    assert "as draft of" in run(*command).out


def test_details_need_a_base(run, tiny_model, text):
    for option in ("--breakdown", "--draft"):
        result = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, option)
        assert result.code == 2 and "compare with a base" in result.err


def test_results_depend_on_neither_threads_nor_memory(run, tiny_model, rounded_model, text):
    command = ("perplexity", "-m", rounded_model, "--base-model", tiny_model, "-f", text, "-c", 32, "--draft", "--json")
    expected = json.loads(run(*command, "-t", 1).out)["models"][0]
    for options in (["-t", 2], ["-t", 3, "--memory", "1K"], ["-t", 1, "--memory", "1K"]):
        found = json.loads(run(*command, *options).out)["models"][0]
        for name in ("perplexity", "perplexity_base", "mean_kld", "rms_delta_p"):
            assert found[name] == pytest.approx(expected[name], rel=1e-6), (options, name)
        assert found["draft"]["tokens_per_pass"] == pytest.approx(expected["draft"]["tokens_per_pass"], rel=1e-6)


def test_precision(run, tiny_model, text):
    options = ("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--json", "--precision")
    f32, auto, bf16 = (json.loads(run(*options, precision).out)["models"][0] for precision in ("f32", "auto", "bf16"))
    assert auto == f32  # the weights are float32
    assert bf16["running"] != f32["running"]
    np.testing.assert_allclose(bf16["running"], f32["running"], rtol=0.02)


def test_a_quantized_cache_costs_divergence_and_the_base_keeps_its_own(run, tiny_model, text):
    def mean_kld(*options):
        options = ("-m", tiny_model, "--base-model", tiny_model, "-f", text, "-c", 32, *options)
        return json.loads(run("perplexity", *options, "--json").out)["models"][0]["mean_kld"]["value"]

    assert mean_kld() == 0
    assert 0 < mean_kld("--cache-type-k", "q8_0") < mean_kld("--cache-type-k", "q4_0", "--cache-type-v", "q4_0")
    result = run("perplexity", "-m", tiny_model, "-f", text, "-c", 32, "--cache-type-k", "q4_k")
    assert result.code == 1 and "choose a type with smaller blocks" in result.err

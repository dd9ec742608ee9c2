"""A whole small model, rounded with the help of a text."""

import importlib.util
from contextlib import ExitStack

import numpy as np
import pytest

from quanttool.feedback.layers import Calibration
from quanttool.formats import block_format, quantize_rows
from quanttool.imatrix.collect import Collector
from quanttool.models import load_model
from quanttool.parallel import use_threads
from tests.models import tiny
from tests.models.variants import all_variants


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    metadata, tensors = tiny.llama()
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", metadata, tensors)


def texts(n_chunks: int, seed: int) -> np.ndarray:
    """Tokens of which few are frequent: i32 [n_chunks, 64]."""
    return (np.random.default_rng(seed).exponential(12, (n_chunks, 64)) % tiny.N_VOCAB).astype(np.int32)


def calibrated(path, name: str = "Q4_0", finished=lambda name: None, memory: int | None = None) -> dict:
    model = load_model(path)
    formats = {weight: block_format(name) for weight in model.weights()}
    calibration = Calibration(model, load_model(path), formats, texts(40, seed=1), memory=memory)
    return dict(calibration.tensors(finished))


def output_error(path, data: dict, name: str) -> float:
    """Squared error of the normalized output on another text."""
    model, tokens = load_model(path), texts(20, seed=2)
    exact = model.hidden_states(tokens)
    weights = {weight: (rows, name) for weight, rows in data.items()}
    with ExitStack() as replaced:
        for block in model.blocks:
            replaced.enter_context(block.replaced_by(weights))
        return float(((model.hidden_states(tokens) - exact).astype(np.float64) ** 2).sum())


def with_importance_alone(path, name: str) -> dict:
    model = load_model(path)
    collector = Collector(model.file.tensors, 64)
    model.hidden_states(texts(40, seed=1), collector)
    out = {}
    for weight in model.weights():
        importance = collector.entries[weight].importance()  # [n_matrices, n_cols]
        matrices = np.split(model.tensors.expand(weight), len(importance))
        parts = [quantize_rows(rows, name, columns) for rows, columns in zip(matrices, importance, strict=True)]
        out[weight] = np.concatenate(parts)
    return out


@pytest.mark.parametrize("name", ["Q4_0", "IQ4_NL"])
def test_the_error_of_the_output_is_well_below_that_with_importance_alone(path, name):
    plain = with_importance_alone(path, name)
    assert output_error(path, calibrated(path, name), name) < 0.8 * output_error(path, plain, name)


@pytest.mark.parametrize("variant", ["granitemoe", "deepseek2-gate-up", "gemma3-pattern"])
def test_experts_heads_and_other_layers_take_part(variant, shared, tmp_path):
    spec = importlib.util.spec_from_file_location("make_tiny_models", shared / "models" / "make_tiny_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    all_variants(module)[variant]().write(tmp_path / "model.gguf")
    made = calibrated(tmp_path / "model.gguf", "Q4_1")
    plain = with_importance_alone(tmp_path / "model.gguf", "Q4_1")
    assert made.keys() == plain.keys()
    assert all(not np.array_equal(made[name], plain[name]) for name in made if "exps" in name or "attn_k_b" in name)
    assert output_error(tmp_path / "model.gguf", made, "Q4_1") < output_error(tmp_path / "model.gguf", plain, "Q4_1")


def test_the_bytes_do_not_depend_on_threads(path):
    try:
        use_threads(1)
        one = calibrated(path)
        use_threads(3)
        three = calibrated(path)
    finally:
        use_threads(None)
    assert list(one) == list(three)
    assert all(np.array_equal(one[name], three[name]) for name in one)


def test_the_states_of_held_out_chunks_are_those_of_the_three_models(path):
    model = load_model(path)
    formats = {weight: block_format("Q4_0") for weight in model.weights()}
    calibration = Calibration(model, load_model(path), formats, texts(40, seed=1))
    made = dict(calibration.tensors())
    original, plain, fed = calibration.held_out_states()
    tokens = calibration.held_out
    for state in (original, plain, fed):
        model.normalize(state)
    np.testing.assert_allclose(original, model.hidden_states(tokens), atol=1e-4)
    with ExitStack() as replaced:
        for block in model.blocks:
            replaced.enter_context(block.replaced_by({weight: (rows, "Q4_0") for weight, rows in made.items()}))
        np.testing.assert_allclose(fed, model.hidden_states(tokens), atol=1e-3)
    assert ((fed - original) ** 2).sum() < 0.8 * ((plain - original) ** 2).sum()


def test_chunks_held_out_fall_in_no_step_with_a_text_mixed_in_turns(path):
    tokens = np.arange(64, dtype=np.int32)[:, None] % tiny.N_VOCAB
    calibration = Calibration(load_model(path), load_model(path), {}, tokens)
    assert len(calibration.held_out) == 8 and len(calibration.tokens) == 64
    assert sorted(calibration.held_out[:, 0] % 8) == list(range(8))
    assert sorted(calibration.tokens[:, 0]) == sorted(tokens[:, 0])


def test_tensors_of_an_interrupted_run_are_taken_as_they_are_and_the_rest_comes_out_the_same(path):
    whole = calibrated(path)
    done = dict(list(whole.items())[:10])
    rest = calibrated(path, finished=done.get)
    assert all(np.array_equal(whole[name], rest[name]) for name in whole)


def test_hidden_states_in_a_file_give_the_same_bytes(path):
    in_memory, in_file = calibrated(path), calibrated(path, memory=0)
    assert in_file and all(np.array_equal(in_memory[name], in_file[name]) for name in in_memory)


def test_weights_are_visited_in_the_order_of_their_use(path):
    names = [name.removesuffix(".weight") for name in calibrated(path)]
    parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    assert names == [f"blk.{i}.{part}" for i in range(tiny.N_LAYER) for part in parts]

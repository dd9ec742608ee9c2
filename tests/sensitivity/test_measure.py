"""The measurement on a tiny model: divergences are those of files, predictions follow, interruptions are made good."""

from dataclasses import replace

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.evaluate import ModelPredictions, compare, split
from quanttool.ggml_types import ggml_type
from quanttool.models import load_model
from quanttool.sensitivity.measure import Measurement, Settings, cross_validated_error, fit
from quanttool.sensitivity.table import Interaction, Sensitivity, load_sensitivity, save_sensitivity
from quanttool.sensitivity.weights import Weights
from tests.models import tiny
from tests.models.test_side_by_side import rounded_file

TYPES = tuple(map(ggml_type, ("Q4_0", "Q5_0", "Q8_0")))
SETTINGS = Settings(TYPES, ggml_type("Q4_0"), checks=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    metadata, tensors = tiny.llama()
    return load_model(tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", metadata, tensors))


@pytest.fixture(scope="module")
def chunks():
    return split(np.random.default_rng(2).integers(0, 128, 200), 32)


def measurement(model, chunks, **more):
    return Measurement(model, chunks, Weights(model.file), SETTINGS, **more)


def run(one):
    one.measure_errors()
    one.measure_gains()
    one.measure_checks()
    return one.result()


@pytest.fixture(scope="module")
def result(model, chunks):
    return run(measurement(model, chunks))


def divergence_of_file(model, chunks, types, path):
    """Mean KL divergence of every chunk."""
    other = load_model(rounded_file(model.file, types, path))
    predictions = [ModelPredictions(one, chunks.scored(one.hidden_states(chunks.tokens))) for one in (model, other)]
    return compare(predictions[0], predictions[1:], chunks.targets)[0].kld.mean(axis=1)


@pytest.fixture(scope="module")
def of_single_tensors(model, chunks, tmp_path_factory):
    """Tensor -> divergence of every chunk, of the file that has this tensor in Q4_0."""
    path = tmp_path_factory.mktemp("files") / "x.gguf"
    names = [info.name for info in measurement(model, chunks).tensors]
    return {name: divergence_of_file(model, chunks, {name: "Q4_0"}, path) for name in names}


@pytest.fixture(scope="module")
def level(of_single_tensors):
    """Of every chunk: what all divergences in it add up to, relative to the mean."""
    sums = sum(of_single_tensors.values())
    return sums / sums.mean()


def test_gains_are_divergences_of_files(result, of_single_tensors, level):
    assert len(level) > 3 and level.std() > 0.01
    for name, divergences in of_single_tensors.items():
        gain = result.details["gains"][name]
        assert gain["kld"] == pytest.approx(np.mean(divergences / level), rel=1e-6), name
        assert gain["uncertainty"] == pytest.approx(np.std(divergences / level, ddof=1) / len(level) ** 0.5, rel=1e-6)
        assert result.costs[name]["Q4_0"] == pytest.approx(gain["kld"])


@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight"])
def test_outside_of_the_layers_every_type_is_measured(name, model, chunks, result, level, tmp_path):
    for kind in ("Q5_0", "Q8_0"):
        expected = np.mean(divergence_of_file(model, chunks, {name: kind}, tmp_path / "x.gguf") / level)
        assert result.costs[name][kind] == pytest.approx(expected, rel=1e-6)


def test_inside_errors_say_it(model, result):
    name = "blk.1.ffn_down.weight"
    sample = Weights(model.file).sample(name)
    for kind in ("Q5_0", "Q8_0"):
        ratio = result.costs[name][kind] / result.costs[name]["Q4_0"]
        assert ratio == pytest.approx(sample.error(kind) / sample.error("Q4_0"))


def test_other_types_cost_in_proportion_to_their_errors(result):
    for name, costs in result.costs.items():
        assert costs["Q4_0"] > costs["Q5_0"] > costs["Q8_0"] > 0, name
        assert costs["Q5_0"] / costs["Q4_0"] == pytest.approx(0.25, rel=0.4), name  # a bit more: a quarter


def test_checks_are_divergences_of_files_too(model, chunks, result, level, tmp_path):
    one = measurement(model, chunks)
    types = one.check_recipes()[1]
    expected = np.mean(divergence_of_file(model, chunks, types, tmp_path / "x.gguf") / level)
    check = result.details["checks"][1]
    assert check["measured"] == pytest.approx(expected, rel=1e-9)
    assert check["predicted"] == pytest.approx(result.interaction.divergence(check["sum"]))
    assert set(types) == set(result.costs)


def test_norms_are_not_measured(model, chunks):
    assert not any("norm" in info.name for info in measurement(model, chunks).tensors)


def test_gains_of_another_measurement(model, result):
    one = Measurement(model, None, Weights(model.file), replace(SETTINGS, types=(*TYPES, ggml_type("IQ4_NL"))))
    one.measure_errors()
    again = one.result_with_gains_of(result)
    for name, costs in result.costs.items():
        for kind, cost in costs.items():
            assert again.costs[name][kind] == pytest.approx(cost), (name, kind)
        gain, errors = result.details["gains"][name], again.details["errors"][name]
        assert again.costs[name]["IQ4_NL"] == pytest.approx(gain["kld"] / gain["error"] * errors["IQ4_NL"])
    name = "blk.0.attn_v.weight"
    one.state.errors[name]["Q5_0"] *= 2
    assert one.result_with_gains_of(result).costs[name]["Q5_0"] == pytest.approx(2 * result.costs[name]["Q5_0"])
    with pytest.raises(UsageError, match="has no gain of"):
        one.result_with_gains_of(Sensitivity(result.costs))


def test_an_interrupted_run_goes_on(model, chunks, result, monkeypatch):
    monkeypatch.setattr("quanttool.sensitivity.measure.GROUP", 3)
    saved = []

    class Stop(Exception):
        pass

    def stop_at_the_fourth_group(state):
        saved.append(state)
        if len(state.divergences) >= 12:
            raise Stop

    one = measurement(model, chunks, save=stop_at_the_fourth_group)
    one.measure_errors()
    with pytest.raises(Stop):
        one.measure_gains()
    again = run(measurement(model, chunks, state=saved[-1]))
    assert again.costs.keys() == result.costs.keys()
    for name in again.costs:
        assert again.costs[name] == pytest.approx(result.costs[name], rel=1e-9)


def test_files_come_back_as_they_were(result, tmp_path):
    save_sensitivity(result, tmp_path / "s.json")
    assert load_sensitivity(tmp_path / "s.json") == result


def test_sums_become_divergences():
    found = fit([0.01, 0.1, 1.0], [0.02 * 0.01**1.2, 0.02 * 0.1**1.2, 0.02])
    assert (found.scale, found.exponent) == (pytest.approx(0.02), pytest.approx(1.2))
    assert found.total(found.divergence(0.3)) == pytest.approx(0.3)
    assert fit([0.1], [0.2]) == Interaction(1.0, 1.0)
    checks = [{"sum": s, "measured": 2 * s} for s in (0.01, 0.1, 0.2, 1.0)]
    assert cross_validated_error(checks) == pytest.approx(0, abs=1e-9)
    checks[1]["measured"] *= 2
    assert 0.2 < cross_validated_error(checks) < 1.5
    assert cross_validated_error(checks[:3]) is None

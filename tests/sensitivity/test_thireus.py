"""Files of Thireus's tool suite."""

import math

import pytest

from quanttool.errors import FileFormatError, UsageError
from quanttool.sensitivity import load_sensitivity
from quanttool.sensitivity.thireus import read_map, read_results

CURVE = "QTYPE,group0\nbf16,0\niq2_ks,1.2\niq4_k,0.03\nq6_K,0.004\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "group0").mkdir()
    (tmp_path / "group0" / "kld_results.csv").write_text(CURVE)
    return tmp_path


def test_costs_follow_the_curve(folder):
    path = folder / "kld_results.csv"
    path.write_text("QTYPE,a.weight,b.weight,c.weight\niq2_ks,0.02,404,-0.001\n")
    found = load_sensitivity(path)
    assert found.costs["a.weight"] == pytest.approx(
        {"BF16": 0.0, "IQ2_KS": 0.02, "IQ4_K": 0.02 * 0.03 / 1.2, "Q6_K": 0.02 * 0.004 / 1.2}
    )
    assert "b.weight" not in found.costs
    assert found.costs["c.weight"]["IQ2_KS"] == 0.02  # noise is never a gain


def test_the_nearest_probe_decides(folder):
    path = folder / "kld_results.csv"
    path.write_text("QTYPE,a.weight\niq2_ks,0.02\niq4_k,0.001\n")
    costs = load_sensitivity(path).costs["a.weight"]
    assert costs["IQ4_K"] == 0.001
    assert costs["Q6_K"] == pytest.approx(0.001 * 0.004 / 0.03)


def test_perplexities_and_percentages(folder):
    path = folder / "ppl_results.csv"
    path.write_text("QTYPE,a.weight,b.weight\nbf16,8.0,8.0\niq2_ks,8.8,8.4\n")
    assert load_sensitivity(path).costs["a.weight"]["IQ2_KS"] == pytest.approx(math.log(1.1))
    path.write_text("QTYPE,a.weight,b.weight\niq2_ks,10%,404%\n")
    assert load_sensitivity(path).costs["a.weight"]["IQ2_KS"] == pytest.approx(math.log(1.1))


def test_errors_say_what_is_missing(folder, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone") / "kld_results.csv"
    alone.write_text("QTYPE,a.weight\niq2_ks,0.02\n")
    with pytest.raises(UsageError, match=r"needs the curve of its model; put group0's kld_results\.csv"):
        read_results(alone)
    damaged = folder / "x.csv"
    damaged.write_text("name,a\n")
    with pytest.raises(FileFormatError, match="does not begin with QTYPE"):
        read_results(damaged)
    damaged.write_text("QTYPE,a.weight\niq2_ks,none\n")
    with pytest.raises(FileFormatError, match="none"):
        read_results(damaged)


def test_maps(tmp_path):
    path = tmp_path / "tensors.bf16.map"
    path.write_text("x.gguf:abc:blk.0.ffn_up.weight:shape=(2560, 9728):dtype=bf16:elements=24903680:bytes=49807360\n")
    (tensor,) = read_map(path)
    assert (tensor.name, tensor.type.name, tensor.ne) == ("blk.0.ffn_up.weight", "BF16", (2560, 9728))
    path.write_text("nonsense\n")
    with pytest.raises(FileFormatError, match="nonsense"):
        read_map(path)


def test_a_published_measurement(shared):
    folder = shared / "data" / "sensitivity" / "Qwen3-4B-Instruct-2507"
    found = load_sensitivity(folder / "kld_results.csv")
    names = {tensor.name for tensor in read_map(folder / "tensors.bf16.map")}
    assert len(found.costs) == 253
    assert set(found.costs) <= names
    assert {"Q4_K", "IQ4_KS", "Q8_KV"} <= set(found.types)
    assert all(cost >= 0 for row in found.costs.values() for cost in row.values())

"""Statistics against a slow twin, and against what llama-imatrix prints for the same file."""

import math

import numpy as np
import pytest

from quanttool.imatrix import Entry, Imatrix, load
from quanttool.imatrix.statistics import expert_hits, layer_statistics, weight_statistics

# layer, weight, then the columns of llama-imatrix --show-statistics for golden/imatrix/s768-4chunks.gguf
PRINTED = """
18 attn_k  96.67 0.0000    51.8895 0.13 1.88 75.00 768 4.5503 47.47 0.39 0.9993
12 attn_k  83.07 0.0000    67.5825 0.11 2.44 75.00 768 2.0614 21.51 0.13 0.9387
25 attn_k  67.75 0.0000    27.0505 0.09 0.99 75.00 768 5.7666 60.16 0.91 0.2178
 5 attn_q  30.62 0.0000     6.2708 0.04 0.31 75.00 768 6.1435 64.09 0.78 0.9685
"""


def naive(values):
    """Mean squares of one weight -> its numbers, one after the other as C++ does."""
    n, total = len(values), math.fsum(values)
    mean = total / n
    sigma = math.sqrt(max(0.0, math.fsum(v * v for v in values) / n - mean * mean))
    return {
        "total": total,
        "minimum": min(values),
        "maximum": max(values),
        "mean": mean,
        "sigma": sigma,
        "active": 1 - sum(v <= 1e-5 for v in values) / n,
        "n": n,
        "entropy": -math.fsum(v / total * math.log2(v / total) for v in values if v > 0),
        "outliers": sum((v - mean) / sigma > 1 for v in values) / n,
    }


def example():
    rng = np.random.default_rng(1)
    dense = [Entry(np.where(rng.random((1, 40)) < 0.2, 0, rng.gamma(0.5, size=(1, 40))), np.array([7])) for _ in "ab"]
    experts = Entry(rng.random((3, 10)), np.array([4, 0, 9]))
    names = ("blk.0.ffn_up.weight", "blk.1.ffn_up.weight")
    return Imatrix(dict(zip(names, dense, strict=True)) | {"blk.1.ffn_up_exps.weight": experts})


def test_each_number():
    data = example()
    for weight in weight_statistics(data):
        entry = data.entries[weight.name]
        reached = [i for i, count in enumerate(entry.counts) if count]
        expected = naive([x / entry.counts[i] for i in reached for x in entry.sums_of_squares[i]])
        for name, value in expected.items():
            assert getattr(weight, name) == pytest.approx(value, rel=1e-12), name
        assert weight.relative_entropy == pytest.approx(expected["entropy"] / math.log2(expected["n"]))


def test_similarity_to_the_layer_before():
    data = example()
    found = {weight.name: weight for weight in weight_statistics(data)}
    a, b = (data.entries[f"blk.{i}.ffn_up.weight"].sums_of_squares[0] for i in (0, 1))
    expected = sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))
    assert found["blk.1.ffn_up.weight"].cosine == pytest.approx(expected)
    assert found["blk.0.ffn_up.weight"].cosine is None
    assert found["blk.1.ffn_up_exps.weight"].cosine is None


def test_layers_count_by_channels():
    weights = weight_statistics(example())
    up, experts = (next(w for w in weights if w.layer == 1 and w.kind == kind) for kind in ("ffn_up", "ffn_up_exps"))
    (_, layer) = layer_statistics(weights)
    assert layer.layer == 1
    assert layer.total == pytest.approx((40 * up.total + 20 * experts.total) / 60)
    assert layer.cosine == pytest.approx(40 * up.cosine / 60)


def test_hits_per_expert():
    (layer,) = expert_hits(example())
    assert (layer.layer, layer.hits, layer.unreached) == (1, [4, 0, 9], 1)
    entropy = -(4 / 13 * math.log2(4 / 13) + 9 / 13 * math.log2(9 / 13))
    assert layer.balance == pytest.approx(entropy / math.log2(3))
    even = Imatrix({"blk.3.ffn_up_exps.weight": Entry(np.ones((4, 2)), np.full(4, 7))})
    assert expert_hits(even)[0].balance == pytest.approx(1)
    one = Imatrix({"blk.3.ffn_up_exps.weight": Entry(np.ones((2, 2)), np.array([0, 7]))})
    assert expert_hits(one)[0].balance == 0


def test_order_and_names_outside_blocks():
    data = example()
    data.entries["output.weight"] = Entry(np.ones((1, 8)), np.array([1]))
    data.entries["blk.0.unused.weight"] = Entry(np.zeros((1, 8)), np.array([0]))
    weights = weight_statistics(data)
    assert [w.kind for w in weights] == ["ffn_up", "ffn_up", "ffn_up_exps", "output"]
    assert weights[0].total > weights[1].total
    equal = weights[-1]
    assert (equal.layer, equal.entropy, equal.relative_entropy, equal.outliers) == (None, 3, 1, 0)


def test_numbers_of_llama_imatrix(shared):
    weights = weight_statistics(load(shared / "golden" / "imatrix" / "s768-4chunks.gguf"))
    found = {(weight.layer, weight.kind): weight for weight in weights}
    assert len(found) == 210
    for line in PRINTED.strip().splitlines():
        layer, kind, *printed = line.split()
        w = found[int(layer), kind]
        columns = [w.total, w.minimum, w.maximum, w.mean, w.sigma, 100 * w.active, w.n, w.entropy]
        columns += [100 * w.relative_entropy, 100 * w.outliers, w.cosine]
        for text, value in zip(printed, columns, strict=True):
            digits = len(text.partition(".")[2])
            assert abs(float(text) - value) <= 0.51 * 10**-digits, line

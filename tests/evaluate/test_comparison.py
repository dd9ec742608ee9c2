"""Comparisons: never certain where there is nothing, certain where there is something, and with the right error."""

from itertools import pairwise

import numpy as np
import pytest

from quanttool.evaluate.comparison import compare_pairs, pareto_front

N_CHUNKS, N_SCORED = 20, 255
SHIFTS = {"c": 2, "a": 0, "b": 1}


def correlated(rng, shape=(N_CHUNKS, N_SCORED), memory=0.7):
    """Noise of variance 1 whose neighbours are correlated, as differences of neighbouring tokens are."""
    noise, out = rng.standard_normal(shape), np.empty(shape)
    out[:, 0] = noise[:, 0]
    for i in range(1, shape[1]):
        out[:, i] = memory * out[:, i - 1] + (1 - memory**2) ** 0.5 * noise[:, i]
    return out


def test_a_model_is_never_better_than_itself():
    rng = np.random.default_rng(0)
    values = rng.gamma(0.5, size=(40, N_SCORED))
    for seed in range(50):
        some = values[rng.permutation(40)[:20]]
        (pair,) = compare_pairs({"a": some, "b": some.copy()}, seed=seed)
        assert pair.p == 1 and not pair.is_significant
        assert (pair.difference, pair.uncertainty, pair.low, pair.high) == (0, 0, 0, 0)


def test_equal_models_are_seldom_told_apart():
    """Two models with equal means: 5 % of the texts may say otherwise."""
    rng = np.random.default_rng(1)
    common = rng.gamma(0.5, size=(N_CHUNKS, N_SCORED))
    found = 0
    for seed in range(100):
        pair = {"a": common, "b": common + 0.1 * correlated(rng)}
        found += compare_pairs(pair, seed=seed)[0].is_significant
    assert found <= 13  # 5 expected; 1 time in 1000 more


def test_tokens_that_count_as_independent_would_find_too_much():
    """The same with blocks of one token: what correlation does, and blocks are for."""
    rng = np.random.default_rng(1)
    found = 0
    for seed in range(12):
        pair = {"a": np.zeros((4, N_SCORED)), "b": correlated(rng, (4, N_SCORED))}
        found += compare_pairs(pair, tokens_per_block=1, seed=seed)[0].is_significant
    assert found > 2  # 1 expected if they were


def test_a_difference_is_found_with_its_size_and_error():
    rng = np.random.default_rng(2)
    common, noise = 5 * rng.gamma(0.5, size=(2, N_CHUNKS, N_SCORED))[0], 0.1 * correlated(rng)
    (pair,) = compare_pairs({"worse": common + noise + 0.05, "better": common})
    assert (pair.better, pair.worse) == ("better", "worse") and pair.p < 0.001
    assert pair.difference == pytest.approx(0.05 + noise.mean(), rel=1e-9)
    assert pair.low < 0.05 < pair.high
    # a chunk's 255 tokens are 4 blocks of 63 or 64: the error of a mean over 80 draws of about that size
    edges = [0, 63, 127, 191, 255]
    blocks = [chunk[a:b].sum() for chunk in noise for a, b in pairwise(edges)]
    expected = np.std(blocks) * len(blocks) ** 0.5 / noise.size
    assert pair.uncertainty == pytest.approx(expected, rel=0.03)
    assert pair.high - pair.low == pytest.approx(2 * 1.96 * expected, rel=0.06)


def test_all_pairs_from_the_best_model_on():
    rng = np.random.default_rng(3)
    common = rng.gamma(0.5, size=(N_CHUNKS, N_SCORED))
    pairs = compare_pairs({name: common + shift + 0.1 * correlated(rng) for name, shift in SHIFTS.items()})
    assert [(pair.better, pair.worse) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [round(pair.difference) for pair in pairs] == [1, 2, 1] and all(pair.is_significant for pair in pairs)


def test_the_order_of_models_does_not_matter():
    rng = np.random.default_rng(4)
    values = {name: rng.gamma(0.5, size=(N_CHUNKS, N_SCORED)) for name in "abc"}
    assert compare_pairs(values) == compare_pairs(dict(reversed(values.items())))


def test_few_tokens_say_nothing():
    values = {"a": np.zeros((4, 255)), "b": np.ones((4, 255))}
    assert compare_pairs(values) == []
    assert len(compare_pairs({name: np.tile(v, (2, 1)) for name, v in values.items()})) == 1


def test_pareto_front():
    points = [(1, 9), (2, 5), (2, 6), (3, 5), (4, 1), (4, 1), (5, 2)]
    assert pareto_front(points) == [True, True, False, False, True, True, False]
    assert pareto_front([]) == []

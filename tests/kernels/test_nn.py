"""The forward pass's kernels against their slow twins. Tolerances: a few units in float32's last place."""

import numpy as np
import pytest

from quanttool.kernels import nn
from tests import naive_nn as naive


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("n", [1, 7, 256])
def test_rms_norm(n):
    x, weight = normal(5, n) * 3, normal(n, seed=2)
    out = np.empty_like(x)
    nn.rms_norm(x, weight, np.float32(1e-5), out)
    np.testing.assert_allclose(out, naive.rms_norm(x, weight, 1e-5), rtol=2e-6)


@pytest.mark.parametrize("style", ["pairs", "halves"])
def test_rope_turns_part_of_each_head_and_starts_again_with_each_sequence(style):
    x = normal(10, 3, 16)  # two sequences of 5 tokens, 12 of 16 values rotate
    angles = np.arange(5)[:, None] * 10.0 ** -np.arange(6)
    expected = naive.rope(x, np.tile(angles, (2, 1)), style)
    kernel = nn.rope_pairs if style == "pairs" else nn.rope_halves
    kernel(x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    np.testing.assert_allclose(x, expected, atol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 3.0, 80.0])
def test_causal_softmax(spread):
    scores = normal(6, 11) * np.float32(spread)
    expected = np.zeros(scores.shape)
    for row in range(6):
        expected[row, : 4 + row + 1] = naive.softmax(scores[row, : 4 + row + 1] * 0.5)
    nn.causal_softmax(scores, 4, np.float32(0.5))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-30)


def test_silu_times():
    gate = np.concatenate([normal(4, 100) * 5, np.float32([[-200, -50, 0, 50] * 25])])
    up = normal(5, 100, seed=3)
    expected = naive.silu(gate) * up
    nn.silu_times(gate, up)
    np.testing.assert_allclose(gate, expected, rtol=2e-6, atol=1e-30)

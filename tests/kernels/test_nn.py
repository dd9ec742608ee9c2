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


@pytest.mark.parametrize("n_head", [1, 3])
def test_layer_norm_with_weights_per_head(n_head):
    x, weight, bias = normal(6, 50) + 4, normal(n_head, 50, seed=2), normal(n_head, 50, seed=3)
    out = np.empty_like(x)
    nn.layer_norm(x, weight, bias, np.float32(1e-5), out)
    expected = naive.layer_norm(x.reshape(-1, n_head, 50), weight, bias, 1e-5)
    np.testing.assert_allclose(out, expected.reshape(out.shape), atol=4e-6)


@pytest.mark.parametrize("style", ["pairs", "halves"])
def test_rope_turns_part_of_each_head_and_starts_again_with_each_sequence(style):
    x = normal(10, 3, 16)  # two sequences of 5 tokens, 12 of 16 values rotate
    angles = np.arange(5)[:, None] * 10.0 ** -np.arange(6)
    expected = naive.rope(x, np.tile(angles, (2, 1)), style)
    kernel = nn.rope_pairs if style == "pairs" else nn.rope_halves
    kernel(x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    np.testing.assert_allclose(x, expected, atol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 3.0, 80.0])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_causal_softmax(spread, window):
    scores = normal(6, 11) * np.float32(spread)
    expected = np.zeros(scores.shape)
    for row in range(6):
        seen = slice(max(0, 5 + row - window), 5 + row)
        expected[row, seen] = naive.softmax(scores[row, seen])
    nn.causal_softmax(scores, 4, window, np.float32(0), np.float32(-1e30))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("sink", [-3.0, 0.0, 50.0])
def test_a_sink_takes_its_share(sink):
    scores = normal(1, 8)
    expected = naive.softmax(np.append(scores, sink))[:8]
    nn.causal_softmax(scores, 7, 8, np.float32(0), np.float32(sink))
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)


def test_soft_capped_softmax():
    scores = normal(1, 30) * 42
    expected = naive.softmax(50 * np.tanh(scores[0].astype(np.float64) / 50))
    nn.causal_softmax(scores, 29, 30, np.float32(50), np.float32(-1e30))
    np.testing.assert_allclose(scores[0], expected, rtol=4e-5, atol=1e-37)


def gates():
    """Ordinary values, and those where exponentials leave float32."""
    return np.concatenate([normal(4, 100) * 5, np.float32([[-200, -50, 0, 50] * 25])])


def test_silu_times():
    gate, up = gates(), normal(5, 100, seed=3)
    expected = naive.silu(gate) * up
    nn.silu_times(gate, up)
    np.testing.assert_allclose(gate, expected, rtol=2e-6, atol=1e-30)


def test_gelu():
    x = gates()
    expected = naive.gelu(x)
    nn.gelu(x)
    np.testing.assert_allclose(x, expected, rtol=2e-6, atol=1e-6)


def test_clamped_silu_times():
    gate, up = gates(), normal(5, 100, seed=3) * 6
    g, u = np.minimum(gate.astype(np.float64), 7), np.clip(up.astype(np.float64), -7, 7)
    expected = g / (1 + np.exp(-1.702 * g)) * (u + 1)
    nn.clamped_silu_times(gate, up)
    np.testing.assert_allclose(gate, expected, rtol=4e-6, atol=1e-30)


def test_add_rows():
    x, out, scale = normal(3, 10), normal(6, 10, seed=2), normal(3, seed=3)
    expected = out.copy()
    expected[[4, 0, 5]] += scale[:, None] * x
    nn.add_rows(x, scale, np.array([4, 0, 5]), out)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: nn.rms_norm(x, np.ones(9, np.float32), np.float32(1e-5), x),
        lambda x: nn.causal_softmax(x, 8, 9, np.float32(0), np.float32(-1e30)),
        lambda x: nn.causal_softmax(x, 8, 9, np.float32(50), np.float32(-1e30)),
        lambda x: nn.silu_times(x, np.ones_like(x)),
        nn.gelu,
        lambda x: nn.clamped_silu_times(x, np.ones_like(x)),
    ],
)
def test_nan_stays_nan(work):
    """A damaged weight must show in the result, not vanish in a comparison."""
    x = normal(2, 9)
    x[1, 4] = np.nan
    work(x)
    assert np.isnan(x[1, 4]) and np.isfinite(x[0]).all()

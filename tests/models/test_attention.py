"""Attention in blocks, with its options, against the textbook."""

import numpy as np
import pytest

from quanttool.models import layers
from tests import naive_nn as naive


@pytest.mark.parametrize("block", [4, 128])
@pytest.mark.parametrize(
    "options", [{}, {"window": 3}, {"window": 9}, {"soft_cap": 2.0}, {"sinks": np.float32([0, 1, -1, 2, 0.5, 0])}]
)
def test_attention(options, block, monkeypatch):
    monkeypatch.setattr(layers, "QUERY_BLOCK", block)
    rng = np.random.default_rng(3)
    q = rng.standard_normal((2, 13, 6, 8), dtype=np.float32)
    k = rng.standard_normal((2, 13, 3, 8), dtype=np.float32)
    v = rng.standard_normal((2, 13, 3, 5), dtype=np.float32)
    out = layers.attend(q, k, v, 0.5, **options)
    for seq in range(2):
        np.testing.assert_allclose(out[seq], naive.attention(q[seq], k[seq], v[seq], 0.5, **options), atol=2e-6)

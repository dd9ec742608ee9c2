"""The pieces that architectures share: norms, rope, attention, activations."""

from functools import lru_cache

import numpy as np

from ..kernels import nn
from .config import Config
from .tensors import Array

QUERY_BLOCK = 128  # queries whose scores are held at once: fewer waste fewer keys past the diagonal


class RMSNorm:
    """x / rms(x) * weight."""

    def __init__(self, weight: Array, eps: float):
        self.weight, self.eps = weight, np.float32(eps)

    def __call__(self, x: Array) -> Array:  # [..., n] -> the same shape
        out = np.empty(x.shape, np.float32)
        rows = x.reshape(-1, x.shape[-1])
        nn.rms_norm(rows, self.weight, self.eps, out.reshape(rows.shape))
        return out


class Rope:
    """Rotary positions. Angles are computed in float64, so long contexts lose nothing."""

    def __init__(self, config: Config, style: str = "pairs", factors: Array | None = None):
        self.n_rot = config.n_rot
        self.kernel = {"pairs": nn.rope_pairs, "halves": nn.rope_halves}[style]
        base = config.number("rope.freq_base", 10000.0)
        frequencies = base ** (-np.arange(0, self.n_rot, 2) / self.n_rot)
        self.frequencies = frequencies if factors is None else frequencies / factors
        self._tables = lru_cache(maxsize=1)(self._compute_tables)

    def _compute_tables(self, n_ctx: int) -> tuple[Array, Array]:
        angles = np.arange(n_ctx)[:, None] * self.frequencies  # [n_ctx, n_rot / 2]
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def __call__(self, x: Array) -> Array:  # [n_seq, n_ctx, n_head, head_size], rotated in place
        cos, sin = self._tables(x.shape[1])
        self.kernel(x.reshape(-1, *x.shape[2:]), cos, sin)
        return x


def attention(q: Array, k: Array, v: Array, scale: float) -> Array:
    """Causal attention of each sequence to itself; query head h looks at key-value head h // (n_head / n_head_kv).

    q [n_seq, n_ctx, n_head, head_size], k [n_seq, n_ctx, n_head_kv, head_size],
    v [n_seq, n_ctx, n_head_kv, head_size_v] -> [n_seq, n_ctx, n_head * head_size_v]
    """
    n_seq, n_ctx, n_head, _ = q.shape
    group = n_head // k.shape[2]
    out = np.empty((n_seq, n_ctx, n_head, v.shape[3]), np.float32)
    for seq in range(n_seq):
        for head in range(n_head):
            for start in range(0, n_ctx, QUERY_BLOCK):
                stop = min(start + QUERY_BLOCK, n_ctx)
                scores = q[seq, start:stop, head] @ k[seq, :stop, head // group].T
                nn.causal_softmax(scores, start, np.float32(scale))
                np.matmul(scores, v[seq, :stop, head // group], out=out[seq, start:stop, head])
    return out.reshape(n_seq, n_ctx, -1)


def silu_times(gate: Array, up: Array) -> Array:
    """silu(gate) * up, in the place of gate."""
    nn.silu_times(gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1]))
    return gate

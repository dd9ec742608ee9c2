"""The pieces that architectures share: norms, attention, feed-forward networks."""

from collections.abc import Callable
from math import sqrt

import numpy as np

from ..kernels import nn
from .attention import NO_WINDOW
from .config import Config
from .rope import Rope
from .tensors import Array, Tensors

ROWS_PER_BATCH = 512  # rows that go through a step at a time, per thread: enough for BLAS, few enough for the cache


class RMSNorm:
    """x / rms(x) * `name`.weight."""

    def __init__(self, c: Config, t: Tensors, name: str, n: int | None = None):
        self.weight, self.eps = t.vector(name + ".weight", n or c.n_embd), np.float32(c.rms_eps)

    def __call__(self, x: Array) -> Array:  # [..., n] -> the same shape
        out = np.empty(x.shape, np.float32)
        n = x.shape[-1]
        nn.rms_norm(x.reshape(-1, n), self.weight, self.eps, out.reshape(-1, n))
        return out


class LayerNorm:
    """(x - mean) / deviation * `name`.weight + `name`.bias; with `n_head` each head has its own weights."""

    def __init__(self, c: Config, t: Tensors, name: str, n: int | None = None, n_head: int = 1):
        n = n or c.n_embd
        self.weight = t.vector(name + ".weight", n_head, n)
        bias = t.optional_vector(name + ".bias", n_head, n)
        self.bias = np.zeros_like(self.weight) if bias is None else bias
        self.eps = np.float32(c.number("attention.layer_norm_epsilon"))

    def __call__(self, x: Array) -> Array:  # [..., n] -> the same shape
        out = np.empty(x.shape, np.float32)
        n = x.shape[-1]
        nn.layer_norm(x.reshape(-1, n), self.weight, self.bias, self.eps, out.reshape(-1, n))
        return out


class Temperature:
    """Factors of queries that grow with the logarithm of the position, stepwise (llama.cpp: llm_graph_input_attn_temp).

    length:  positions per step; up to there, the factor is 1
    """

    def __init__(self, scale: float, length: int):
        self.scale, self.length = scale, length

    def __call__(self, n_ctx: int) -> Array:  # [n_ctx, 1, 1]
        steps = np.arange(n_ctx) // self.length
        return (1 + self.scale * np.log(1 + steps)).astype(np.float32)[:, None, None]


class Attention:
    """Grouped-query self-attention with rope; reads attn_q, attn_k, attn_v (or attn_qkv) and attn_output.

    q_norm and k_norm work on heads, or on all heads together where their weights are that long.
    """

    def __init__(
        self,
        c: Config,
        t: Tensors,
        rope: Rope | None,
        scale: float | None = None,  # of the scores; default 1 / sqrt(head size)
        q_norm: Callable[[Array], Array] | None = None,
        k_norm: Callable[[Array], Array] | None = None,
        window: int = NO_WINDOW,
        soft_cap: float = 0.0,
        sinks: Array | None = None,
        temperature: Temperature | None = None,
    ):
        self.temperature = temperature
        self.rope, self.q_norm, self.k_norm = rope, q_norm, k_norm
        self.options = {"scale": scale or 1 / sqrt(c.head_size), "window": window, "soft_cap": soft_cap, "sinks": sinks}
        self.n_head, self.n_head_kv = c.n_head, c.n_head_kv
        self.cache, self.attend = t.cache, t.device.attend
        self.cache.check(c.path, c.head_size, c.head_size_v)
        self.sizes = [c.n_head * c.head_size, c.n_head_kv * c.head_size, c.n_head_kv * c.head_size_v]
        if t.has("attn_qkv.weight"):
            self.attn_qkv = t.linear("attn_qkv", sum(self.sizes), c.n_embd)
        else:
            self.attn_qkv = None
            self.attn_q = t.linear("attn_q", self.sizes[0], c.n_embd)
            self.attn_k = t.linear("attn_k", self.sizes[1], c.n_embd)
            self.attn_v = t.linear("attn_v", self.sizes[2], c.n_embd)
        self.attn_output = t.linear("attn_output", c.n_embd, c.n_head * c.head_size_v)

    def __call__(self, x: Array) -> Array:  # [n_seq, n_ctx, n_embd] -> the same shape
        if self.attn_qkv is not None:
            q, k, v = np.split(self.attn_qkv(x), np.cumsum(self.sizes)[:2], axis=-1)
        else:
            q, k, v = self.attn_q(x), self.attn_k(x), self.attn_v(x)
        q = self._heads(q, self.n_head, self.q_norm)
        k = self._heads(k, self.n_head_kv, self.k_norm)
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        if self.temperature is not None:
            q = q * self.temperature(x.shape[1])
        v = self._heads(v, self.n_head_kv)
        out = self.attend(q, self.cache.keys(k), self.cache.values(v), **self.options)
        return self.attn_output(out.reshape(*x.shape[:2], -1))

    @staticmethod
    def _heads(x: Array, n_head: int, norm: Callable[[Array], Array] | None = None) -> Array:
        """[n_seq, n_ctx, n] -> [n_seq, n_ctx, n_head, n / n_head], contiguous and normalized."""
        if norm is not None:
            x = norm(np.ascontiguousarray(x).reshape(*x.shape[:2], -1, norm.weight.shape[-1]))
        return np.ascontiguousarray(x).reshape(*x.shape[:2], n_head, -1)


def silu_times(gate: Array, up: Array) -> Array:
    """silu(gate) * up, in the place of gate."""
    nn.silu_times(gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1]))
    return gate


def gelu(x: Array) -> Array:
    """gelu(x), in the place of x."""
    nn.gelu(x.reshape(-1, x.shape[-1]))
    return x


def gelu_times(gate: Array, up: Array) -> Array:
    """gelu(gate) * up, in the place of gate."""
    gate = gelu(gate)
    gate *= up
    return gate


class GatedFFN:
    """ffn_down(activation(ffn_gate(x), ffn_up(x))); `suffix` "_shexp" for the experts that see every token."""

    rows_per_batch = ROWS_PER_BATCH
    uses_threads = False

    def __init__(self, c: Config, t: Tensors, n_ff: int, suffix: str = "", activation: Callable = silu_times):
        self.activation = activation
        self.ffn_gate = t.linear("ffn_gate" + suffix, n_ff, c.n_embd)
        self.ffn_up = t.linear("ffn_up" + suffix, n_ff, c.n_embd)
        self.ffn_down = t.linear("ffn_down" + suffix, c.n_embd, n_ff)

    def __call__(self, x: Array) -> Array:  # [..., n_embd] -> the same shape
        return self.ffn_down(self.activation(self.ffn_gate(x), self.ffn_up(x)))

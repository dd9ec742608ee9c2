"""llama: pre-norm transformer, grouped-query attention, rope on neighbours, SwiGLU (llama.cpp src/models/llama.cpp)."""

from math import sqrt

from .config import Config
from .layers import RMSNorm, Rope, attention, silu_times
from .model import Layer, Model
from .tensors import Array, Tensors


class LlamaLayer(Layer):
    def __init__(self, c: Config, t: Tensors, blk: str, rope: Rope):
        self.n_head, self.n_head_kv, self.rope = c.n_head, c.n_head_kv, rope
        self.scale = c.number("attention.scale", 1 / sqrt(c.head_size))
        self.attn_norm = RMSNorm(t.vector(blk + "attn_norm.weight", c.n_embd), c.rms_eps)
        self.attn_q = t.linear(blk + "attn_q", c.n_head * c.head_size, c.n_embd)
        self.attn_k = t.linear(blk + "attn_k", c.n_head_kv * c.head_size, c.n_embd)
        self.attn_v = t.linear(blk + "attn_v", c.n_head_kv * c.head_size_v, c.n_embd)
        self.attn_output = t.linear(blk + "attn_output", c.n_embd, c.n_head * c.head_size_v)
        self.ffn_norm = RMSNorm(t.vector(blk + "ffn_norm.weight", c.n_embd), c.rms_eps)
        self.ffn_gate = t.linear(blk + "ffn_gate", c.n_ff, c.n_embd)
        self.ffn_up = t.linear(blk + "ffn_up", c.n_ff, c.n_embd)
        self.ffn_down = t.linear(blk + "ffn_down", c.n_embd, c.n_ff)

    def __call__(self, x: Array) -> Array:  # [n_seq, n_ctx, n_embd]
        shape = x.shape[:2]
        h = self.attn_norm(x)
        q = self.rope(self.attn_q(h).reshape(*shape, self.n_head, -1))
        k = self.rope(self.attn_k(h).reshape(*shape, self.n_head_kv, -1))
        v = self.attn_v(h).reshape(*shape, self.n_head_kv, -1)
        x = x + self.attn_output(attention(q, k, v, self.scale))
        h = self.ffn_norm(x)
        x += self.ffn_down(silu_times(self.ffn_gate(h), self.ffn_up(h)))
        return x


class Llama(Model):
    def build(self, c: Config, t: Tensors) -> None:
        factors = t.vector("rope_freqs.weight", c.n_rot // 2) if t.has("rope_freqs.weight") else None
        rope = Rope(c, "pairs", factors)
        self.layers = [LlamaLayer(c, t, f"blk.{i}.", rope) for i in range(c.n_layer)]
        self.output_norm = RMSNorm(t.vector("output_norm.weight", c.n_embd), c.rms_eps)

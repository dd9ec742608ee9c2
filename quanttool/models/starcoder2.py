"""starcoder2: layer norms, biases everywhere, a plain GELU network (llama.cpp: models/starcoder2.cpp)."""

from .config import Config
from .layers import ROWS_PER_BATCH, Attention, LayerNorm, gelu
from .model import Layer, Model
from .rope import Rope
from .tensors import Array, Tensors


class PlainFFN:
    """ffn_down(gelu(ffn_up(x)))."""

    rows_per_batch = ROWS_PER_BATCH
    uses_threads = False

    def __init__(self, c: Config, t: Tensors, n_ff: int):
        self.ffn_up = t.linear("ffn_up", n_ff, c.n_embd)
        self.ffn_down = t.linear("ffn_down", c.n_embd, n_ff)

    def __call__(self, x: Array) -> Array:
        return self.ffn_down(gelu(self.ffn_up(x)))


class Starcoder2Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = LayerNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope)
        self.ffn_norm = LayerNorm(c, t, "ffn_norm")
        self.ffn = PlainFFN(c, t, c.n_ff)


class Starcoder2(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.config, self.tensors, name)

    def layer(self, c: Config, t: Tensors, i: int) -> Starcoder2Layer:
        return Starcoder2Layer(c, t, self.rope)

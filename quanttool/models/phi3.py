"""phi3: fused projections, factors per frequency for long contexts (llama.cpp: models/phi3.cpp).

The sliding window of some of these models is left out, as the reference does.
"""

import numpy as np

from .config import Config
from .layers import ROWS_PER_BATCH, Attention, RMSNorm, silu_times
from .model import Layer, Model
from .rope import Rope
from .tensors import Array, Tensors


class FusedFFN:
    """ffn_down(silu(gate) * up), where ffn_up gives gate and up side by side."""

    rows_per_batch = ROWS_PER_BATCH
    uses_threads = False

    def __init__(self, c: Config, t: Tensors, n_ff: int):
        self.ffn_up = t.linear("ffn_up", 2 * n_ff, c.n_embd)
        self.ffn_down = t.linear("ffn_down", c.n_embd, n_ff)

    def __call__(self, x: Array) -> Array:
        gate, up = (np.ascontiguousarray(half) for half in np.split(self.ffn_up(x), 2, axis=-1))
        return self.ffn_down(silu_times(gate, up))


class Phi3Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = FusedFFN(c, t, c.n_ff)


class Phi3(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def layer(self, c: Config, t: Tensors, i: int) -> Phi3Layer:
        return Phi3Layer(c, t, self.rope)

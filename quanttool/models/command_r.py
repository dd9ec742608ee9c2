"""command-r, cohere2: attention and feed-forward side by side (llama.cpp: models/command-r.cpp, cohere2.cpp)."""

import numpy as np

from .config import Config
from .layers import NO_WINDOW, Attention, GatedFFN, LayerNorm
from .model import Layer, Model, Step
from .rope import Rope
from .tensors import Array, Tensors


class CommandRLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope | None, window: int = NO_WINDOW):
        self.attn_norm = LayerNorm(c, t, "attn_norm")
        qk_norm = t.has("attn_q_norm.weight")  # in Command R+ only
        q_norm = LayerNorm(c, t, "attn_q_norm", c.head_size, c.n_head) if qk_norm else None
        k_norm = LayerNorm(c, t, "attn_k_norm", c.head_size, c.n_head_kv) if qk_norm else None
        self.attn = Attention(c, t, rope, q_norm=q_norm, k_norm=k_norm, window=window)
        self.ffn = GatedFFN(c, t, c.n_ff)

    def steps(self) -> list[Step]:
        return [Step(self.parallel_step)]

    def parallel_step(self, x: Array) -> Array:
        h = self.attn_norm(x)
        return x + self.attn(h) + self.ffn(h)


class CommandR(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.logit_scale = np.float32(c.number("logit_scale", 0.0) or 1.0)
        self.rope = Rope(c, t, "pairs")

    def norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.config, self.tensors, name)

    def layer(self, c: Config, t: Tensors, i: int) -> CommandRLayer:
        return CommandRLayer(c, t, self.rope)

    def scale_logits(self, logits: Array) -> Array:
        return logits * self.logit_scale


class Cohere2(CommandR):
    """Three layers of four attend within a window; the others look at everything, and know no positions."""

    def prepare(self, c: Config, t: Tensors) -> None:
        super().prepare(c, t)
        self.sliding, self.window = c.sliding(4), c.count("attention.sliding_window")

    def layer(self, c: Config, t: Tensors, i: int) -> CommandRLayer:
        return CommandRLayer(c, t, self.rope, self.window) if self.sliding[i] else CommandRLayer(c, t, None)

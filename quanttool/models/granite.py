"""granite: a llama with scales on embeddings, residuals, attention and logits (llama.cpp: models/granite.cpp)."""

import numpy as np

from .config import Config
from .layers import Attention, GatedFFN, RMSNorm
from .model import Layer, Model
from .moe import MoE
from .rope import Rope
from .tensors import Array, Tensors


class GraniteLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope | None):
        self.residual_scale = np.float32(c.number("residual_scale", 0.0) or 1.0)
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope, scale=c.number("attention.scale", 0.0) or None)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        n_ff_shexp = c.integer("expert_shared_feed_forward_length", 0)
        if c.integer("expert_count", 0):
            self.ffn = MoE(c, t, c.n_ff, shared=GatedFFN(c, t, n_ff_shexp, "_shexp") if n_ff_shexp else None)
        else:
            self.ffn = GatedFFN(c, t, c.n_ff)

    def attention_step(self, x: Array) -> Array:
        return x + self.residual_scale * self.attn(self.attn_norm(x))

    def ffn_step(self, x: Array) -> Array:
        return x + self.residual_scale * self.ffn(self.ffn_norm(x))


class Granite(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.logit_scale = np.float32(c.number("logit_scale"))
        self.embedding_scale = np.float32(c.number("embedding_scale", 0.0) or 1.0)
        # granite uses this key as the switch of rope
        self.rope = Rope(c, t, "pairs") if c.flag("rope.scaling.finetuned", True) else None

    def layer(self, c: Config, t: Tensors, i: int) -> GraniteLayer:
        return GraniteLayer(c, t, self.rope)

    def embed(self, tokens: Array) -> Array:
        return super().embed(tokens) * self.embedding_scale

    def scale_logits(self, logits: Array) -> Array:
        return logits / self.logit_scale

"""gemma, gemma2, gemma3: scaled embeddings, GELU; from the second on, norms on both sides of each part, and windows.

After llama.cpp: models/gemma.cpp, gemma2.cpp, gemma3.cpp.
"""

from math import sqrt

import numpy as np

from .config import Config
from .layers import NO_WINDOW, Attention, GatedFFN, RMSNorm, gelu_times
from .model import Layer, Model
from .rope import Rope
from .tensors import Array, Tensors

N_LAYER_27B = {"gemma2": 46, "gemma3": 62}  # the 27B models scale scores by n_embd / n_head instead of the head size


class GemmaLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = GatedFFN(c, t, c.n_ff, activation=gelu_times)


class Gemma(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def layer(self, c: Config, t: Tensors, i: int) -> GemmaLayer:
        return GemmaLayer(c, t, self.rope)

    def embed(self, tokens: Array) -> Array:
        return super().embed(tokens) * np.float32(sqrt(self.n_embd))


class Gemma2Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope, window: int, qk_norm: bool):
        is_27b = c.n_layer == N_LAYER_27B[c.architecture]
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(
            c,
            t,
            rope,
            scale=1 / sqrt(c.n_embd // c.n_head if is_27b else c.head_size),
            q_norm=RMSNorm(c, t, "attn_q_norm", c.head_size) if qk_norm else None,
            k_norm=RMSNorm(c, t, "attn_k_norm", c.head_size) if qk_norm else None,
            window=window,
            soft_cap=c.number("attn_logit_softcapping", 50.0) if c.architecture == "gemma2" else 0.0,
        )
        self.post_attention_norm = RMSNorm(c, t, "post_attention_norm")
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = GatedFFN(c, t, c.n_ff, activation=gelu_times)
        self.post_ffw_norm = RMSNorm(c, t, "post_ffw_norm")

    def attention_step(self, x: Array) -> Array:
        return x + self.post_attention_norm(self.attn(self.attn_norm(x)))

    def ffn_step(self, x: Array) -> Array:
        return x + self.post_ffw_norm(self.ffn(self.ffn_norm(x)))


class Gemma2(Gemma):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.final_cap = np.float32(c.number("final_logit_softcapping", 30.0))
        self.sliding, self.window = c.sliding(2), c.count("attention.sliding_window", 4096)
        self.rope = Rope(c, t, "halves")
        self.rope_swa = Rope(c, t, "halves", base=c.number("rope.freq_base_swa", None))

    def layer(self, c: Config, t: Tensors, i: int) -> Gemma2Layer:
        if self.sliding[i]:
            return Gemma2Layer(c, t, self.rope_swa, self.window, qk_norm=False)
        return Gemma2Layer(c, t, self.rope, NO_WINDOW, qk_norm=False)

    def scale_logits(self, logits: Array) -> Array:
        return np.tanh(logits / self.final_cap) * self.final_cap if self.final_cap else logits


class Gemma3(Gemma2):
    """Five layers of six look at a window only, and turn with a base of their own."""

    def prepare(self, c: Config, t: Tensors) -> None:
        self.final_cap = np.float32(c.number("final_logit_softcapping", 0.0))
        self.window = c.integer("attention.sliding_window", 0)
        self.sliding = c.sliding(6) if self.window else [False] * c.n_layer
        self.rope = Rope(c, t, "halves")
        self.rope_swa = Rope(c, t, "halves", base=c.number("rope.freq_base_swa", 10000.0), scaled=False)

    def layer(self, c: Config, t: Tensors, i: int) -> Gemma2Layer:
        if self.sliding[i]:
            return Gemma2Layer(c, t, self.rope_swa, self.window, qk_norm=True)
        return Gemma2Layer(c, t, self.rope, NO_WINDOW, qk_norm=True)

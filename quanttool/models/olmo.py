"""olmo2 (OLMo 2 and 3), olmoe: norms over all heads together (llama.cpp: models/olmo2.cpp, olmoe.cpp)."""

from .config import Config
from .layers import NO_WINDOW, Attention, GatedFFN, RMSNorm
from .model import Layer, Model
from .moe import MoE
from .rope import Rope
from .tensors import Array, Tensors


class Olmo2Layer(Layer):
    """Norms after attention and feed-forward, none before."""

    def __init__(self, c: Config, t: Tensors, rope: Rope, window: int):
        q_norm = RMSNorm(c, t, "attn_q_norm", c.n_head * c.head_size)
        k_norm = RMSNorm(c, t, "attn_k_norm", c.n_head_kv * c.head_size)
        self.attn = Attention(c, t, rope, q_norm=q_norm, k_norm=k_norm, window=window)
        self.post_attention_norm = RMSNorm(c, t, "post_attention_norm")
        self.ffn = GatedFFN(c, t, c.n_ff)
        self.post_ffw_norm = RMSNorm(c, t, "post_ffw_norm")

    def attention_step(self, x: Array) -> Array:
        return x + self.post_attention_norm(self.attn(x))

    def ffn_step(self, x: Array) -> Array:
        return x + self.post_ffw_norm(self.ffn(x))


class Olmo2(Model):
    """OLMo 3 attends within a window in three layers of four, and leaves the rope of these unstretched."""

    def prepare(self, c: Config, t: Tensors) -> None:
        self.window = c.integer("attention.sliding_window", 0)
        self.sliding = c.sliding(4) if self.window else [False] * c.n_layer
        self.rope = Rope(c, t, "halves")
        self.rope_swa = Rope(c, t, "halves", scaled=False)

    def layer(self, c: Config, t: Tensors, i: int) -> Olmo2Layer:
        if self.sliding[i]:
            return Olmo2Layer(c, t, self.rope_swa, self.window)
        return Olmo2Layer(c, t, self.rope, NO_WINDOW)


class OlmoeLayer(Layer):
    """Experts whose weights are not normalized."""

    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        q_norm = RMSNorm(c, t, "attn_q_norm", c.n_head * c.head_size)
        k_norm = RMSNorm(c, t, "attn_k_norm", c.n_head_kv * c.head_size)
        self.attn = Attention(c, t, rope, q_norm=q_norm, k_norm=k_norm)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = MoE(c, t, c.n_ff, normalize=False)


class Olmoe(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def layer(self, c: Config, t: Tensors, i: int) -> OlmoeLayer:
        return OlmoeLayer(c, t, self.rope)

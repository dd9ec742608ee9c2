"""qwen2, qwen2moe, qwen3, qwen3moe (llama.cpp: models/qwen2.cpp and its three neighbours).

All turn halves. The older two have biases on queries, keys and values; the newer two normalize each head instead.
"""

from .config import Config
from .layers import Attention, GatedFFN, RMSNorm
from .model import Layer, Model
from .moe import MoE, SigmoidGated
from .rope import Rope
from .tensors import Tensors


class Qwen2Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = GatedFFN(c, t, c.n_ff)


class Qwen2MoeLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        shared = SigmoidGated(c, t, c.integer("expert_shared_feed_forward_length", 0) or c.n_ff)
        self.ffn = MoE(c, t, c.n_ff_exp, normalize=False, shared=shared)


class Qwen3Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        q_norm, k_norm = RMSNorm(c, t, "attn_q_norm", c.head_size), RMSNorm(c, t, "attn_k_norm", c.head_size)
        self.attn = Attention(c, t, rope, q_norm=q_norm, k_norm=k_norm)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = MoE(c, t, c.n_ff_exp) if c.integer("expert_count", 0) else GatedFFN(c, t, c.n_ff)


class Qwen2(Model):
    layer_class = Qwen2Layer

    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def layer(self, c: Config, t: Tensors, i: int) -> Layer:
        return self.layer_class(c, t, self.rope)


class Qwen2Moe(Qwen2):
    layer_class = Qwen2MoeLayer


class Qwen3(Qwen2):
    layer_class = Qwen3Layer

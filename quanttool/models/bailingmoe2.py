"""bailingmoe2 (Ling 2): fused projections, norms on heads, groups of experts (llama.cpp: models/bailingmoe2.cpp)."""

from .config import Config
from .layers import Attention, GatedFFN, RMSNorm
from .model import Layer, Model
from .moe import MoE, gating
from .rope import Rope
from .tensors import Tensors


class BailingMoe2Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope, dense: bool):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        q_norm, k_norm = RMSNorm(c, t, "attn_q_norm", c.head_size), RMSNorm(c, t, "attn_k_norm", c.head_size)
        self.attn = Attention(c, t, rope, q_norm=q_norm, k_norm=k_norm)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        if dense:
            self.ffn = GatedFFN(c, t, c.n_ff)
        else:
            n_ff_shexp = c.integer("expert_shared_feed_forward_length", 0) or c.n_ff_exp
            shared = GatedFFN(c, t, n_ff_shexp * c.count("expert_shared_count"), "_shexp")
            normalize = c.flag("expert_weights_norm", False)
            self.ffn = MoE(c, t, c.n_ff_exp, gating(c, "sigmoid"), normalize, shared=shared)


class BailingMoe2(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def layer(self, c: Config, t: Tensors, i: int) -> BailingMoe2Layer:
        return BailingMoe2Layer(c, t, self.rope, dense=i < c.integer("leading_dense_block_count", 0))

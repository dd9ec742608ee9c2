"""deepseek2 (DeepSeek-V2, V3, R1, Kimi-K2): latent attention, shared experts (llama.cpp: models/deepseek2.cpp)."""

from .config import Config
from .layers import GatedFFN, RMSNorm
from .mla import LatentAttention, yarn_multiplier
from .model import Layer, Model
from .moe import MoE, gating
from .rope import Rope
from .tensors import Tensors


class DeepSeek2Layer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope, dense: bool):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = LatentAttention(c, t, rope)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        if dense:
            self.ffn = GatedFFN(c, t, c.n_ff)
        else:
            shared = GatedFFN(c, t, c.n_ff_exp * c.count("expert_shared_count"), "_shexp")
            normalize = c.flag("expert_weights_norm", False)
            self.ffn = MoE(c, t, c.n_ff_exp, gating(c, "softmax"), normalize, shared=shared)


class DeepSeek2(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "pairs", yarn_magnitude=1.0 if yarn_multiplier(c) else None)

    def layer(self, c: Config, t: Tensors, i: int) -> DeepSeek2Layer:
        return DeepSeek2Layer(c, t, self.rope, dense=i < c.integer("leading_dense_block_count", 0))

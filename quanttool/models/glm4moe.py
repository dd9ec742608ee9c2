"""glm4moe (GLM-4.5): biased attention, rope on part of each head, sigmoid router (llama.cpp: models/glm4-moe.cpp)."""

from .config import Config
from .layers import Attention, GatedFFN, RMSNorm
from .model import Layer, Model
from .moe import MoE, gating
from .rope import Rope
from .tensors import Tensors


class Glm4MoeLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope, dense: bool):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        qk_norm = t.has("attn_q_norm.weight")  # in the large model only
        q_norm = RMSNorm(c, t, "attn_q_norm", c.head_size) if qk_norm else None
        k_norm = RMSNorm(c, t, "attn_k_norm", c.head_size) if qk_norm else None
        self.attn = Attention(c, t, rope, q_norm=q_norm, k_norm=k_norm)
        self.ffn_norm = RMSNorm(c, t, "post_attention_norm")
        if dense:
            self.ffn = GatedFFN(c, t, c.n_ff)
        else:
            n_shared = c.integer("expert_shared_count")
            shared = GatedFFN(c, t, c.n_ff_exp * n_shared, "_shexp") if n_shared else None
            normalize = c.flag("expert_weights_norm", False)
            self.ffn = MoE(c, t, c.n_ff_exp, gating(c, "sigmoid"), normalize, shared=shared)


class Glm4Moe(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "halves")

    def layer(self, c: Config, t: Tensors, i: int) -> Glm4MoeLayer:
        return Glm4MoeLayer(c, t, self.rope, dense=i < c.integer("leading_dense_block_count", 0))

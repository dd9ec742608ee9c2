"""olmoe: norms over all heads together, experts whose weights are not normalized (llama.cpp: models/olmoe.cpp)."""

from .config import Config
from .layers import Attention, RMSNorm
from .model import Layer, Model
from .moe import MoE
from .rope import Rope
from .tensors import Tensors


class OlmoeLayer(Layer):
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

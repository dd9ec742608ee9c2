"""llama, Mistral, Mixtral: grouped-query attention, rope on neighbours, SwiGLU (llama.cpp: models/llama.cpp)."""

from .config import Config
from .layers import Attention, GatedFFN, RMSNorm
from .model import Layer, Model
from .moe import MoE
from .rope import Rope
from .tensors import Tensors


class LlamaLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = MoE(c, t, c.n_ff) if c.integer("expert_count", 0) else GatedFFN(c, t, c.n_ff)


class Llama(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "pairs")

    def layer(self, c: Config, t: Tensors, i: int) -> LlamaLayer:
        return LlamaLayer(c, t, self.rope)

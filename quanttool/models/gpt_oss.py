"""gpt-oss: attention sinks, every other layer within a window, biased experts (llama.cpp: models/openai-moe.cpp)."""

from ..kernels import nn
from .config import Config
from .layers import NO_WINDOW, Attention, RMSNorm
from .model import Layer, Model
from .moe import MoE
from .rope import Rope
from .tensors import Array, Tensors


def clamped_silu_times(gate: Array, up: Array) -> Array:
    """gpt-oss's activation, in the place of gate."""
    nn.clamped_silu_times(gate, up)
    return gate


class GptOssLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope, window: int):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope, window=window, sinks=t.vector("attn_sinks.weight", c.n_head))
        self.ffn_norm = RMSNorm(c, t, "post_attention_norm")
        self.ffn = MoE(c, t, c.n_ff_exp, "softmax of the chosen", normalize=False, activation=clamped_silu_times)


class GptOss(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.sliding, self.window = c.sliding(2), c.count("attention.sliding_window")
        self.rope = Rope(c, t, "halves")
        self.rope_swa = Rope(c, t, "halves", base=c.number("rope.freq_base_swa", None))

    def layer(self, c: Config, t: Tensors, i: int) -> GptOssLayer:
        if self.sliding[i]:
            return GptOssLayer(c, t, self.rope_swa, self.window)
        return GptOssLayer(c, t, self.rope, NO_WINDOW)

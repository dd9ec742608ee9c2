"""llama, Mistral, Mixtral, SmolLM3: pairs, SwiGLU (llama.cpp: models/llama.cpp, mistral3.cpp, smollm3.cpp)."""

from .config import Config
from .layers import Attention, GatedFFN, RMSNorm, Temperature
from .model import Layer, Model
from .moe import MoE
from .rope import Rope, log_scale
from .tensors import Tensors


class LlamaLayer(Layer):
    def __init__(self, c: Config, t: Tensors, rope: Rope | None, temperature: Temperature | None = None):
        self.attn_norm = RMSNorm(c, t, "attn_norm")
        self.attn = Attention(c, t, rope, temperature=temperature)
        self.ffn_norm = RMSNorm(c, t, "ffn_norm")
        self.ffn = MoE(c, t, c.n_ff) if c.integer("expert_count", 0) else GatedFFN(c, t, c.n_ff)


class Llama(Model):
    def prepare(self, c: Config, t: Tensors) -> None:
        self.rope = Rope(c, t, "pairs")

    def layer(self, c: Config, t: Tensors, i: int) -> LlamaLayer:
        return LlamaLayer(c, t, self.rope)


class SmolLM3(Llama):
    """Every fourth layer goes without positions."""

    def layer(self, c: Config, t: Tensors, i: int) -> LlamaLayer:
        return LlamaLayer(c, t, None if i % 4 == 3 else self.rope)


class Mistral3(Llama):
    """Ministral 3 and its kin: YaRN, and queries that grow with the position past the original context."""

    def prepare(self, c: Config, t: Tensors) -> None:
        multiplier = c.number("rope.scaling.yarn_log_multiplier", 0.0)
        factor = c.number("rope.scaling.factor", 1.0)
        magnitude = log_scale(factor, 1.0) / log_scale(factor, multiplier)
        self.rope = Rope(c, t, "pairs", yarn_magnitude=magnitude)
        scale = c.number("attention.temperature_scale", 0.0)
        self.temperature = Temperature(scale, self.rope.n_ctx_original) if scale else None

    def layer(self, c: Config, t: Tensors, i: int) -> LlamaLayer:
        return LlamaLayer(c, t, self.rope, self.temperature)

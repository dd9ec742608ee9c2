"""Rotary positions, with the ways of stretching them to longer contexts that GGUF files name."""

from functools import cached_property, lru_cache
from math import ceil, floor, log, pi

import numpy as np

from ..errors import ModelError
from ..kernels import nn
from .config import Config
from .tensors import Array, Tensors


class Rope:
    """Turns the first n_rot values of each head by angles that grow with the position.

    style:   "pairs" turns neighbours, "halves" turns value i with i + n_rot/2 (ggml's normal and neox)
    base:    default rope.freq_base
    scaled:  whether rope.scaling applies (gemma3's local layers are left alone)
    yarn_magnitude:  what YaRN multiplies queries and keys with; default 1 + ln(factor) / 10

    Angles are computed in float64, so that long contexts lose nothing. After llama.cpp: ggml_rope_cache_init and
    rope_yarn (ops.cpp), ggml_rope_yarn_corr_dims (ggml.c), the constructor of llama_context.
    """

    def __init__(
        self,
        c: Config,
        t: Tensors,
        style: str,
        base: float | None = None,
        scaled: bool = True,
        yarn_magnitude: float | None = None,
    ):
        self.config = c
        self.kernel = {"pairs": nn.rope_pairs, "halves": nn.rope_halves}[style]
        n_half = c.n_rot // 2
        base = base or c.number("rope.freq_base", 10000.0)
        self.frequencies = base ** (-np.arange(n_half) / n_half)
        self.magnitude = c.number("rope.scaling.attn_factor", 1.0)
        self.factor = 1.0  # how much longer the context became
        if scaled:
            self._stretch(base, yarn_magnitude)
        self.freqs = t.optional_vector("rope_freqs.weight", n_half)
        self.factors_long = t.optional_vector("rope_factors_long.weight", n_half)
        self.factors_short = t.optional_vector("rope_factors_short.weight", n_half)
        self._tables = lru_cache(maxsize=1)(self._compute_tables)

    def _stretch(self, base: float, yarn_magnitude: float | None) -> None:
        c = self.config
        kind = c.text("rope.scaling.type", "linear")
        if kind not in ("none", "linear", "yarn", "longrope"):
            raise ModelError(f"{c.path}: rope.scaling.type is {kind!r}; known are none, linear, yarn, longrope")
        factor = c.number("rope.scaling.factor", c.number("rope.scale_linear", 0.0))
        if kind == "none" or factor == 0:
            return
        self.factor = factor
        stretched = self.frequencies / factor
        if kind == "yarn":
            # fast frequencies stay, slow ones are stretched, with a ramp between
            fast, slow = c.number("rope.scaling.yarn_beta_fast", 32.0), c.number("rope.scaling.yarn_beta_slow", 1.0)
            low = max(0, floor(self._pair_that_turns(base, fast)))
            high = min(c.n_rot - 1, ceil(self._pair_that_turns(base, slow)))
            ramp = np.clip((np.arange(len(stretched)) - low) / max(0.001, high - low), 0, 1)
            self.frequencies = self.frequencies * (1 - ramp) + stretched * ramp
            self.magnitude *= log_scale(factor, 1.0) if yarn_magnitude is None else yarn_magnitude
        else:
            self.frequencies = stretched

    @cached_property
    def n_ctx_original(self) -> int:
        """The context before it was stretched."""
        return self.config.count("rope.scaling.original_context_length", None) or self.config.count("context_length")

    def _pair_that_turns(self, base: float, n_times: float) -> float:
        """Which pair of values turns `n_times` times within the original context."""
        return self.config.n_rot * log(self.n_ctx_original / (n_times * 2 * pi)) / (2 * log(base))

    def _compute_tables(self, n_ctx: int) -> tuple[Array, Array]:  # two of [n_ctx, n_rot / 2]
        factors = self.freqs
        if factors is None:
            factors = self.factors_short
            if self.factors_long is not None and n_ctx > self.n_ctx_original:
                factors = self.factors_long
        frequencies = self.frequencies if factors is None else self.frequencies / factors
        angles = np.arange(n_ctx)[:, None] * frequencies
        return tuple((self.magnitude * f(angles)).astype(np.float32) for f in (np.cos, np.sin))

    def __call__(self, x: Array) -> Array:  # [n_seq, n_ctx, n_head, head_size], contiguous; turned in place
        cos, sin = self._tables(x.shape[1])
        self.kernel(x.reshape(-1, *x.shape[2:]), cos, sin)
        return x


def log_scale(factor: float, multiplier: float) -> float:
    """YaRN's correction of magnitudes for a context that became `factor` times longer."""
    return 1 + 0.1 * multiplier * log(factor) if factor > 1 else 1.0

"""Mixture of experts: a router picks a few experts per token; each expert sees all of its tokens in one product."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..kernels import nn
from .config import Config
from .layers import ROWS_PER_BATCH as SHARED_ROWS
from .layers import GatedFFN, silu_times
from .tensors import Array, Tensors

# Rows that every expert is shown at a time, when observers want to see all of them with all experts
SHOWN_ROWS = 4096

# Rows that go through the experts at a time. Far more than elsewhere: an expert sees few of them, and its weights are
# expanded once per batch.
ROWS_PER_BATCH = 16384

GATING = {1: "softmax", 2: "sigmoid", 3: "softmax of the chosen"}  # expert_gating_func (llama-hparams.h)


class MoE:
    """Routed experts, and shared ones that see every token (after llama.cpp src/llama-graph.cpp build_moe_ffn).

    n_ff:       width of a routed expert
    gating:     how router logits become weights, one of GATING's values
    normalize:  whether the weights of a token's experts are made to sum to 1
    shared:     feed-forward network that is added for every token
    """

    rows_per_batch = ROWS_PER_BATCH
    uses_threads = True

    def __init__(
        self,
        c: Config,
        t: Tensors,
        n_ff: int,
        gating: str = "softmax",
        normalize: bool = True,
        activation: Callable[[Array, Array], Array] = silu_times,
        shared: Callable[[Array], Array] | None = None,
    ):
        self.watch = t.watch
        self.gating, self.normalize, self.activation, self.shared = gating, normalize, activation, shared
        self.n, self.n_used = c.count("expert_count"), c.count("expert_used_count")
        self.scale = c.number("expert_weights_scale", 0.0) or 1.0
        self.n_groups, self.n_groups_used = c.integer("expert_group_count", 0), c.integer("expert_group_used_count", 0)
        self._check_counts(c)
        self.ffn_gate_inp = t.linear("ffn_gate_inp", self.n, c.n_embd)
        self.exp_probs_b = t.optional_vector("exp_probs_b.bias", self.n)
        if t.has("ffn_gate_up_exps.weight"):
            self.ffn_gate_up_exps = t.experts("ffn_gate_up_exps", self.n, 2 * n_ff, c.n_embd)
        else:
            self.ffn_gate_up_exps = None
            self.ffn_gate_exps = t.experts("ffn_gate_exps", self.n, n_ff, c.n_embd)
            self.ffn_up_exps = t.experts("ffn_up_exps", self.n, n_ff, c.n_embd)
        self.ffn_down_exps = t.experts("ffn_down_exps", self.n, c.n_embd, n_ff)

    def _check_counts(self, c: Config) -> None:
        if self.n_used > self.n:
            raise ModelError(f"{c.path}: expert_used_count is {self.n_used}, expert_count only {self.n}")
        if self.n_groups > 1 and (self.n % self.n_groups or not 0 < self.n_groups_used <= self.n_groups):
            raise ModelError(
                f"{c.path}: {self.n_groups_used} of {self.n_groups} groups of {self.n} experts are to be used; groups "
                "must have equal sizes, and at least one must be used"
            )

    def route(self, logits: Array) -> tuple[NDArray[np.int64], Array]:  # [n, n_experts] -> two of [n, n_used]
        """The experts of each row, and how much each of them counts, from the router's logits."""
        if self.gating == "sigmoid":
            probabilities = 1 / (1 + np.exp(-logits))
        elif self.gating == "softmax":
            probabilities = _softmax(logits)
        else:
            probabilities = logits
        preference = probabilities if self.exp_probs_b is None else probabilities + self.exp_probs_b
        if self.n_groups > 1:
            preference = self._only_best_groups(preference)
        chosen = np.argpartition(-preference, self.n_used - 1, axis=-1)[:, : self.n_used]
        weights = np.take_along_axis(probabilities, chosen, axis=-1)
        if self.gating == "softmax of the chosen":
            weights = _softmax(weights)
        if self.normalize:
            # llama.cpp's guard: the smallest normal float16
            weights = weights / np.maximum(weights.sum(-1, keepdims=True), np.float32(2.0**-14))
        return chosen, weights * np.float32(self.scale)

    def _only_best_groups(self, preference: Array) -> Array:
        """Minus infinity for experts outside the groups whose two best experts sum highest (DeepSeek-V3)."""
        grouped = preference.reshape(len(preference), self.n_groups, -1)
        two_best = np.sort(grouped, axis=-1)[:, :, -2:].sum(-1)
        best = np.argpartition(-two_best, self.n_groups_used - 1, axis=-1)[:, : self.n_groups_used]
        out = np.full_like(grouped, -np.inf)
        rows = np.arange(len(grouped))[:, None]
        out[rows, best] = grouped[rows, best]
        return out.reshape(preference.shape)

    def __call__(self, x: Array) -> Array:  # [..., n_embd] -> the same shape
        rows = x.reshape(-1, x.shape[-1])
        logits = self.ffn_gate_inp(rows)
        chosen, weights = self.route(logits)
        out = np.zeros_like(rows)
        by_expert = np.argsort(chosen, axis=None, kind="stable")  # places in `chosen`, expert after expert
        ends = np.cumsum(np.bincount(chosen.ravel(), minlength=self.n))
        places = [by_expert[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        busy = [expert for expert in range(self.n) if len(places[expert])]
        results = self.watch.in_order(lambda expert: self._expert(rows[places[expert] // self.n_used], expert), busy)
        for expert, result in zip(busy, results, strict=True):
            factors = weights.ravel()[places[expert]]
            nn.add_rows(result, factors, places[expert] // self.n_used, out)
            if self.watch.inspector is not None:
                saliencies = np.abs(factors) * np.linalg.norm(result, axis=1)
                self.watch.inspector.on_expert(self.ffn_down_exps.name, expert, saliencies)
        if self.watch.observer is not None and self.watch.all_experts:
            self._show_all(rows, self.shares(logits))
        if self.shared is not None:
            slabs = [slice(start, start + SHARED_ROWS) for start in range(0, len(rows), SHARED_ROWS)]
            results = self.watch.in_order(lambda slab: self.shared(rows[slab]), slabs)
            for slab, result in zip(slabs, results, strict=True):
                out[slab] += result
        return out.reshape(x.shape)

    def _expert(self, x: Array, expert: int) -> Array:
        return self.ffn_down_exps(self._activated(x, expert), expert)

    def _activated(self, x: Array, expert: int, shares: Array | None = None) -> Array:
        """What ffn_down_exps is given: [n, n_embd] -> [n, n_ff]"""
        if self.ffn_gate_up_exps is not None:
            gate, up = np.split(self.ffn_gate_up_exps(x, expert, shares), 2, axis=-1)
            gate, up = np.ascontiguousarray(gate), np.ascontiguousarray(up)
        else:
            gate, up = self.ffn_gate_exps(x, expert, shares), self.ffn_up_exps(x, expert, shares)
        return self.activation(gate, up)

    def shares(self, logits: Array) -> Array:  # [n, n_experts] -> the same shape
        """Probability of each expert according to the router, times the number of experts that a row uses."""
        if self.gating == "sigmoid":
            probabilities = 1 / (1 + np.exp(-logits))
            probabilities /= probabilities.sum(-1, keepdims=True)
        else:
            probabilities = _softmax(logits)
        return probabilities * np.float32(self.n_used)

    def _show_all(self, rows: Array, shares: Array) -> None:
        """Have the observer see every expert's inputs for every row, weighted by its share; results are not used."""

        def show(place: tuple[int, int]) -> None:
            expert, start = place
            part = slice(start, start + SHOWN_ROWS)
            weights = np.ascontiguousarray(shares[part, expert])
            self.ffn_down_exps.show(self._activated(rows[part], expert, weights), expert, weights)

        places = [(expert, start) for expert in range(self.n) for start in range(0, len(rows), SHOWN_ROWS)]
        for _ in self.watch.in_order(show, places):
            pass


class SigmoidGated:
    """A shared expert whose output counts as much as its own one-row router says (qwen2moe)."""

    def __init__(self, c: Config, t: Tensors, n_ff: int):
        self.ffn_gate_inp_shexp = t.linear("ffn_gate_inp_shexp", 1, c.n_embd)
        self.ffn = GatedFFN(c, t, n_ff, "_shexp")

    def __call__(self, x: Array) -> Array:
        return self.ffn(x) / (1 + np.exp(-self.ffn_gate_inp_shexp(x)))


def gating(c: Config, default: str) -> str:
    """The metadata's expert_gating_func, by name."""
    number = c.integer("expert_gating_func", 0)
    if number == 0:
        return default
    if number not in GATING:
        raise ModelError(f"{c.path}: expert_gating_func is {number}; known are {GATING}")
    return GATING[number]


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)

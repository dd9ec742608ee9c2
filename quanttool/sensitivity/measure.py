"""Measure what each tensor costs: its error in every type, and one gain from error to divergence.

    cost(tensor, type) = error(tensor, type) * gain(tensor),  gain = divergence(probe) / error(probe)

The divergence at the probe, a type of four bits, is that of the model with this one tensor quantized. Tensors outside
of the layers are few, large, and weigh their rows as unevenly as words are used: their costs are such divergences in
every type. All these models run side by side (`models.side_by_side`), a group at a time. A handful of recipes then says
what sums mean.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..container import TensorInfo
from ..errors import RecipeError, UsageError
from ..evaluate import Chunks, Estimate
from ..ggml_types import GGMLType, ggml_type
from ..imatrix.hessian import HessianFile
from ..models.model import Model
from ..models.side_by_side import EMBEDDINGS, Types, first_layer
from ..recipes.limits import fallback, reason_to_keep
from .recipes import divergences
from .table import Interaction, Sensitivity
from .weights import Weights, errors

GROUP = 32  # variants that run at a time
NEIGHBOURS = 0.2  # a check recipe mixes types whose bits per weight are within this share of its own
SEED = 20  # of the check recipes
LEAST = 1e-9  # nats: below this a divergence is rounding of the forward pass

Progress = Callable[[int, int], None]


@dataclass
class State:
    """What was measured so far: enough to go on after an interruption.

    errors:       tensor -> type -> error
    divergences:  variant -> mean KL divergence of each chunk, nats
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    divergences: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    types:   candidates
    probe:   the type that gains are measured at
    checks:  recipes that say what sums mean; 0 takes sums as they are
    """

    types: tuple[GGMLType, ...]
    probe: GGMLType
    checks: int = 6


class Measurement:
    """A measurement under way.

    chunks:   the text; None if only errors are wanted
    weights:  the model's weights, as they will be quantized
    hessian:  covariance of inputs to weight errors with; None takes the imatrix
    save:     called after every step, to keep the state
    """

    def __init__(
        self,
        model: Model,
        chunks: Chunks | None,
        weights: Weights,
        settings: Settings,
        hessian: HessianFile | None = None,
        state: State | None = None,
        save: Callable[[State], None] | None = None,
        memory: int | None = None,
    ):
        self.model, self.chunks, self.weights, self.settings = model, chunks, weights, settings
        self.hessian, self.state, self.memory = hessian, state or State(), memory
        self._save = save or (lambda state: None)
        used = {*model.weights(), model.output.name, EMBEDDINGS}
        architecture = model.config.architecture
        self.tensors = [
            info for name, info in model.file.tensors.items() if name in used and not reason_to_keep(info, architecture)
        ]
        if not self.tensors:
            raise UsageError(f"{model.file.path}: has no tensor that can be quantized")

    def measure_errors(self, progress: Progress | None = None) -> None:
        """Of every tensor in every type, from samples of rows."""
        wanted = [*self.settings.types, self.settings.probe]
        for i, info in enumerate(self.tensors):
            known = self.state.errors.setdefault(info.name, {})
            types = [kind for kind in self._possible(info, wanted) if kind not in known]
            if types:
                known |= errors(self.weights.sample(info.name, self.hessian), types)
                self._save(self.state)
            if progress is not None:
                progress(i + 1, len(self.tensors))

    def measure_gains(self, progress: Progress | None = None) -> None:
        """The divergence of every model that has one tensor in the probe type, or one outside of the layers in any."""
        variants = {info.name: {info.name: self._probe(info)} for info in self.tensors}
        for info in self._outside():
            others = self._possible(info, self.settings.types)
            variants |= {_variant_name(info, name): {info.name: name} for name in others if name != self._probe(info)}
        self._measure(dict(sorted(variants.items(), key=lambda item: first_layer(item[1]))), progress)

    def measure_checks(self, progress: Progress | None = None) -> None:
        """The divergences of the check recipes."""
        self._measure({_check_name(i): types for i, types in enumerate(self.check_recipes())}, progress)

    def check_recipes(self) -> list[dict[str, str]]:
        """Recipes of random types near a number of bits per weight each, spread over those of the palette."""
        draw = random.Random(SEED)
        palette = sorted(self.settings.types, key=lambda kind: kind.bpw)
        levels = np.geomspace(palette[0].bpw, palette[-1].bpw, self.settings.checks + 2)[1:-1]
        recipes = []
        for level in levels:
            near = [kind for kind in palette if abs(kind.bpw / level - 1) <= NEIGHBOURS]
            near = near or [min(palette, key=lambda kind: abs(kind.bpw - level))]
            recipes.append(
                {info.name: draw.choice(types) for info in self.tensors if (types := self._possible(info, near))}
            )
        return recipes

    def result(self) -> Sensitivity:
        """Costs of all tensors and types, and what was measured to find them."""
        costs = {info.name: self._costs(info) for info in self.tensors}
        checks = self._checks(costs)
        interaction = fit([check["sum"] for check in checks], [check["measured"] for check in checks])
        gains = {}
        for info in self.tensors:
            kld, uncertainty = self._divergence(info.name)
            error = self.state.errors[info.name][self._probe(info)]
            gains[info.name] = {"kld": kld, "uncertainty": uncertainty, "error": error}
        details = {
            "probe": self.settings.probe.name,
            "search": self.weights.search,
            "text_tokens": int(self.chunks.tokens.size),
            "scored_tokens": int(self.chunks.targets.size),
            "gains": gains,
            "errors": self.state.errors,
            "checks": [check | {"predicted": interaction.divergence(check["sum"])} for check in checks],
            "cross_validated_error": cross_validated_error(checks),
        }
        return Sensitivity(costs, interaction, details)

    def result_with_gains_of(self, known: Sensitivity) -> Sensitivity:
        """Costs from these errors alone and what an earlier measurement of the model says that errors cost.

        A type that it did not know takes the tensor's gain. Raises UsageError if it is of other tensors, or not ours.
        """
        before, gains = (known.details.get(key, {}) for key in ("errors", "gains"))
        missing = [info.name for info in self.tensors if info.name not in before or info.name not in gains]
        if missing:
            raise UsageError(f"the earlier measurement has no gain of {missing[0]}; give one of this model, made by us")

        def per_error(name: str, type_name: str) -> float:
            if known.costs[name].get(type_name) and before[name].get(type_name):
                return known.costs[name][type_name] / before[name][type_name]
            return gains[name]["kld"] / gains[name]["error"]

        errors = {info.name: self.state.errors[info.name] for info in self.tensors}
        costs = {name: {kind: per_error(name, kind) * own[kind] for kind in own} for name, own in errors.items()}
        return Sensitivity(costs, known.interaction, known.details | {"search": self.weights.search, "errors": errors})

    def _costs(self, info: TensorInfo) -> dict[str, float]:
        """Type -> nats of one tensor."""
        known = self.state.errors[info.name]
        gain = max(self._divergence(info.name).value, LEAST) / max(known[self._probe(info)], np.finfo(np.float64).tiny)
        costs = {name: gain * known[name] for name in self._possible(info, self.settings.types) if name in known}
        for name in costs:
            if _variant_name(info, name) in self.state.divergences:
                costs[name] = max(self._divergence(_variant_name(info, name)).value, LEAST)
        return costs

    def _divergence(self, variant: str) -> Estimate:
        """Mean over the chunks, each counted by how little divergence it shows, and its standard error, nats.

        A chunk of another kind of text, as a foreign language, can diverge three times as much as others: as it is, it
        would count for three, and what it says would not hold for the rest.
        """
        values = np.array(self.state.divergences[variant]) / self._chunk_sums * self._chunk_sums.mean()
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return Estimate(float(values.mean()), spread / len(values) ** 0.5)

    @cached_property
    def _chunk_sums(self) -> NDArray[np.float64]:
        """Of the divergences of all tensors at the probe: f64 [n_chunks]."""
        return np.sum([self.state.divergences[info.name] for info in self.tensors], axis=0) + LEAST

    def _outside(self) -> list[TensorInfo]:
        """Tensors outside of the layers."""
        return [info for info in self.tensors if info.name in (EMBEDDINGS, self.model.output.name)]

    def _checks(self, costs: Mapping[str, Mapping[str, float]]) -> list[dict]:
        return [
            {
                "bpw": self._bpw(types),
                "sum": sum(costs[name][kind] for name, kind in types.items()),
                "measured": self._divergence(_check_name(i)).value,
                "uncertainty": self._divergence(_check_name(i)).uncertainty,
            }
            for i, types in enumerate(self.check_recipes())
        ]

    def _bpw(self, types: Types) -> float:
        n_bytes = sum(info.n_rows * ggml_type(types[info.name]).row_bytes(info.n_cols) for info in self.tensors)
        return 8 * n_bytes / sum(info.n_values for info in self.tensors)

    def _measure(self, variants: Mapping[str, Types], progress: Progress | None) -> None:
        """Measure those variants that have no divergence yet, a group at a time."""
        left = [name for name in variants if name not in self.state.divergences]
        groups = [left[start : start + GROUP] for start in range(0, len(left), GROUP)]
        for i, group in enumerate(groups):

            def step(done: int, total: int, i: int = i) -> None:
                if progress is not None:
                    progress(1000 * i + 1000 * done // total, 1000 * len(groups))

            types = [variants[name] for name in group]
            measured = divergences(self.model, self.chunks, types, self.weights, step, self.memory)
            for name, found in zip(group, measured, strict=True):
                self.state.divergences[name] = found.kld.mean(axis=1).clip(min=0).tolist()
            self._save(self.state)

    def _probe(self, info: TensorInfo) -> str:
        return fallback(info, self.settings.probe).name

    def _possible(self, info: TensorInfo, wanted: Sequence[GGMLType]) -> list[str]:
        """Names of what a tensor can have of some types, fallbacks in their place."""
        found: dict[str, None] = {}
        for kind in wanted:
            try:
                name = fallback(info, kind).name
            except RecipeError:  # no type is known to take over
                continue
            if name in ("F16", "BF16", "F32") or self.weights.can_quantize(info.name, name):
                found[name] = None
        return list(found)


def fit(sums: Sequence[float], measured: Sequence[float]) -> Interaction:
    """scale and exponent of measured = scale * sum ** exponent, least squares of logarithms; fewer than two: as is."""
    if len(sums) < 2:
        return Interaction()
    exponent, log_scale = np.polyfit(np.log(sums), np.log(measured), 1)
    return Interaction(float(np.exp(log_scale)), float(exponent))


def cross_validated_error(checks: Sequence[Mapping[str, float]]) -> float | None:
    """Mean relative error of predictions of each check from the others; None for fewer than four."""
    if len(checks) < 4:
        return None
    off = []
    for i, check in enumerate(checks):
        others = [other for j, other in enumerate(checks) if j != i]
        predicted = fit([o["sum"] for o in others], [o["measured"] for o in others]).divergence(check["sum"])
        off.append(abs(np.log(predicted / check["measured"])))
    return float(np.expm1(np.mean(off)))


def _variant_name(info: TensorInfo, type_name: str) -> str:
    return f"{info.name} in {type_name}"


def _check_name(i: int) -> str:
    return f"check {i}"

"""A model's tensors, the user's wishes and a table of costs as a knapsack, and its solution as types of tensors."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..container import TensorInfo
from ..container.layout import DEFAULT_ALIGNMENT, aligned
from ..errors import RecipeError
from ..ggml_types import GGMLType
from ..recipes.limits import fallback, read_table, reason_to_keep
from ..recipes.rules import TensorRule, first_match
from .costs import Costs
from .knapsack import SECONDS, Item, feasible_range, solve


@dataclass(frozen=True)
class Limit:
    """Something that all tensors together may take at most.

    label:   for people
    amount:  how much
    use:     what a tensor takes of it in a type
    """

    label: str
    amount: float
    use: Callable[[TensorInfo, GGMLType], float]


@dataclass(frozen=True)
class Wishes:
    """What the user allows.

    types:       palette of all tensors that nothing else speaks of
    palettes:    (pattern, types): of tensors whose name contains a match; the first decides
    keep:        rules that fix a tensor's type; the first match decides
    ties:        patterns: tensors whose names are the same once the match is cut out get the same type
    protect:     apply the floors of recipes/protected.toml
    alignment:   of tensors in the file
    """

    types: tuple[GGMLType, ...]
    palettes: tuple[tuple[re.Pattern[str], tuple[GGMLType, ...]], ...] = ()
    keep: tuple[TensorRule, ...] = ()
    ties: tuple[re.Pattern[str], ...] = ()
    protect: bool = True
    alignment: int = DEFAULT_ALIGNMENT

    def padded_bytes(self, tensor: TensorInfo, kind: GGMLType) -> int:
        """Bytes that a tensor takes in the file."""
        return aligned(n_bytes(tensor, kind), self.alignment)


@dataclass(frozen=True)
class Range:
    """Of one limit: the least and the most that the palette can take, what was taken, and what more of it is worth."""

    limit: Limit
    least: float
    most: float
    used: float
    price: float  # fall of the objective per unit


@dataclass(frozen=True)
class Allocation:
    """The solution.

    types:     tensor name -> type, of all tensors
    total:     sum of the tensors' costs, nats
    objective, bound:  what was minimized, and below what it cannot be
    unmeasured:  names of tensors whose cost is only a bound
    """

    types: dict[str, GGMLType]
    total: float
    objective: float
    bound: float
    ranges: list[Range]
    unmeasured: list[str] = field(default_factory=list)

    @property
    def gap(self) -> float:
        return max(0.0, (self.objective - self.bound) / self.objective) if self.objective else 0.0


@dataclass(frozen=True)
class _Unit:
    """Tensors that share one choice, and the types that each of them gets with each option."""

    tensors: tuple[TensorInfo, ...]
    options: tuple[tuple[GGMLType, ...], ...]  # [n_options][n_tensors]

    def summed(self, use: Callable[[TensorInfo, GGMLType], float]) -> list[float]:
        """Of every option, what all tensors use."""
        return [sum(map(use, self.tensors, kinds)) for kinds in self.options]


class Problem:
    """All choices there are for a model. Raises RecipeError if a tensor is left without any."""

    def __init__(self, tensors: Iterable[TensorInfo], arch: str, costs: Costs, wishes: Wishes):
        self.tensors, self.costs, self.wishes = list(tensors), costs, wishes
        self.fixed: dict[str, GGMLType] = {}
        self._known_items: dict[tuple[Callable, ...], list[Item]] = {}
        free: dict[str, list[TensorInfo]] = {}
        for tensor in self.tensors:
            if reason_to_keep(tensor, arch):
                self.fixed[tensor.name] = tensor.type
            else:
                free.setdefault(self._tie(tensor.name), []).append(tensor)
        self.units = [self._unit(tuple(group)) for group in free.values()]
        self.unmeasured = [t.name for unit in self.units for t in unit.tensors if not costs.is_measured(t)]

    def minimize_divergence(self, limits: Sequence[Limit], seconds: float = SECONDS) -> Allocation:
        """Least sum of costs within limits. Raises RecipeError, with the feasible range, if nothing fits."""
        return self._solve(self._cost, limits, seconds)

    def minimize(self, use: Callable[[TensorInfo, GGMLType], float], limits: Sequence[Limit]) -> Allocation:
        """Least of anything else, as bytes, within limits; `divergence_limit` gives one on the costs."""
        return self._solve(use, limits, SECONDS)

    def costs_of(self, allocation: Allocation) -> dict[str, float]:
        """Tensor -> nats of it, of all tensors that there was a choice for."""
        return {t.name: self._cost(t, allocation.types[t.name]) for unit in self.units for t in unit.tensors}

    def divergence_limit(self, total: float) -> Limit:
        return Limit("divergence", total, self._cost)

    def _cost(self, tensor: TensorInfo, kind: GGMLType) -> float:
        if tensor.name in self.fixed:
            return 0.0
        return self.costs.of(tensor, kind)

    def _solve(
        self, objective: Callable[[TensorInfo, GGMLType], float], limits: Sequence[Limit], seconds: float
    ) -> Allocation:
        by_name = {tensor.name: tensor for tensor in self.tensors}
        taken = [sum(limit.use(by_name[name], kind) for name, kind in self.fixed.items()) for limit in limits]
        constant = sum(objective(by_name[name], kind) for name, kind in self.fixed.items())
        items = self._items(objective, *(limit.use for limit in limits))
        if not items:
            raise RecipeError("the model has no tensor to quantize")
        least, most = feasible_range(items)
        for limit, low, fixed in zip(limits, least, taken, strict=True):
            if low + fixed > limit.amount:
                raise RecipeError(
                    f"{limit.label}: nothing fits into {limit.amount:,.10g}; "
                    f"these types need at least {low + fixed:,.10g}"
                )
        solution = solve(items, [limit.amount - fixed for limit, fixed in zip(limits, taken, strict=True)], seconds)
        types = dict(self.fixed)
        for unit, option in zip(self.units, solution.chosen, strict=True):
            types |= {t.name: kind for t, kind in zip(unit.tensors, unit.options[option], strict=True)}
        ranges = [
            Range(limit, low + fixed, high + fixed, sum(limit.use(t, types[t.name]) for t in self.tensors), price)
            for limit, low, high, fixed, price in zip(limits, least, most, taken, solution.prices, strict=True)
        ]
        total = sum(self._cost(tensor, types[tensor.name]) for tensor in self.tensors)
        return Allocation(
            types, total, solution.cost + constant, solution.bound + constant, ranges, list(self.unmeasured)
        )

    def _items(self, objective: Callable, *uses: Callable) -> list[Item]:
        """What each unit's options cost and use; kept, since a search asks again with other amounts."""
        if (objective, *uses) not in self._known_items:
            self._known_items[objective, *uses] = [
                Item(
                    np.array(unit.summed(objective), np.float64),
                    np.array([unit.summed(use) for use in uses], np.float64).reshape(len(uses), -1).T,
                )
                for unit in self.units
            ]
        return self._known_items[objective, *uses]

    def _tie(self, name: str) -> str:
        for pattern in self.wishes.ties:
            if match := pattern.search(name):
                return f"{name[: match.start()]}|{name[match.end() :]}"
        return name

    def _unit(self, group: tuple[TensorInfo, ...]) -> _Unit:
        palettes = [self._palette(tensor) for tensor in group]
        common = [kind for kind in palettes[0] if all(kind in other for other in palettes[1:])]
        options = {tuple(fallback(tensor, kind) for tensor in group): None for kind in common}
        alike = [kinds for kinds in options if len(set(kinds)) == 1]
        known = [
            kinds
            for kinds in alike
            if all(self.costs.of(tensor, kind) is not None for tensor, kind in zip(group, kinds, strict=True))
        ]
        if not known:
            names = " and ".join(tensor.name for tensor in group)
            why = "that all of them can have" if len(group) > 1 else "that it can have and whose cost is known"
            raise RecipeError(f"{names}: the palette has no type {why}; allow more with --types-for")
        return _Unit(group, tuple(known))

    def _palette(self, tensor: TensorInfo) -> list[GGMLType]:
        if rule := first_match(self.wishes.keep, tensor.name):
            return [rule.type]
        for pattern, types in self.wishes.palettes:
            if pattern.search(tensor.name):
                return list(types)
        types = [kind for kind in self.wishes.types if self._fits(tensor, kind)]
        floor = least_bpw(tensor.name) if self.wishes.protect else 0.0
        enough = [kind for kind in types if kind.bpw >= floor]
        return enough or sorted(types, key=lambda kind: kind.bpw)[-1:]

    @staticmethod
    def _fits(tensor: TensorInfo, kind: GGMLType) -> bool:
        try:
            fallback(tensor, kind)
        except RecipeError:  # no type is known to take over
            return False
        return True


def n_bytes(tensor: TensorInfo, kind: GGMLType) -> int:
    """Bytes of a tensor in a type, without padding."""
    return tensor.n_rows * kind.row_bytes(tensor.n_cols)


def least_bpw(name: str) -> float:
    """The floor of recipes/protected.toml for a tensor; 0 if it has none."""
    for entry in read_table("protected.toml")["floor"]:
        if re.search(entry["pattern"], name):
            return entry["bpw"]
    return 0.0

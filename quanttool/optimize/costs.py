"""What every tensor costs in every type: measured, or a bound that is on the safe side where nothing was measured."""

import re
from collections.abc import Iterable, Mapping

from ..container import TensorInfo
from ..ggml_types import BY_NAME, GGMLType

Measured = Mapping[str, Mapping[str, float]]  # tensor -> type -> nats
LOSSLESS = ("F32", "F16", "BF16")


class Costs:
    """Costs in nats of tensors of one model.

    A type that a tensor was not measured in costs what the next smaller measured type costs it. A tensor that was not
    measured costs, per weight, as much as the worst measured tensor of its kind (same name in another layer), or of
    all, if there is none of its kind: never nothing.
    """

    def __init__(self, measured: Measured, tensors: Iterable[TensorInfo]):
        self._measured = measured
        sizes = {tensor.name: tensor.n_values for tensor in tensors}
        self._known = [name for name in measured if name in sizes and measured[name]]
        self._worst: dict[str, dict[str, float]] = {}  # kind, "" for all -> type -> nats per weight
        for name in self._known:
            for kind in (_kind(name), ""):
                worst = self._worst.setdefault(kind, {})
                for type_name, cost in measured[name].items():
                    worst[type_name] = max(worst.get(type_name, 0.0), cost / sizes[name])

    @property
    def n_known(self) -> int:
        """Tensors of the model that were measured."""
        return len(self._known)

    def is_measured(self, tensor: TensorInfo) -> bool:
        return bool(self._measured.get(tensor.name))

    def of(self, tensor: TensorInfo, kind: GGMLType) -> float | None:
        """Nats that a tensor adds in a type; None if nothing can be said: no type so small was measured."""
        if kind.name in LOSSLESS:
            return 0.0
        if self.is_measured(tensor):
            return _at(self._measured[tensor.name], kind)
        worst = self._worst.get(_kind(tensor.name)) or self._worst.get("", {})
        per_weight = _at(worst, kind)
        return None if per_weight is None else per_weight * tensor.n_values


def _at(costs: Mapping[str, float], kind: GGMLType) -> float | None:
    if kind.name in costs:
        return costs[kind.name]
    smaller = [name for name in costs if name in BY_NAME and BY_NAME[name].bpw <= kind.bpw]
    return min((costs[name] for name in smaller), default=None)


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)

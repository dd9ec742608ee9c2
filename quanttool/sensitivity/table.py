"""The result of a measurement, as the optimizer wants it: tensor and type -> rise of the mean KL divergence in nats.

A file is JSON, written here, or a CSV of Thireus's tool suite (`thireus.py`).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, UsageError
from ..files import atomic_output

FORMAT = "quanttool sensitivity 1"


@dataclass(frozen=True)
class Interaction:
    """How the divergence of a whole recipe follows from the sum over its tensors: scale * sum ** exponent."""

    scale: float = 1.0
    exponent: float = 1.0

    def divergence(self, total: float) -> float:
        return self.scale * total**self.exponent

    def total(self, divergence: float) -> float:
        return (divergence / self.scale) ** (1 / self.exponent)


@dataclass
class Sensitivity:
    """What is known of a model's tensors.

    costs:        tensor -> type -> mean KL divergence in nats that this tensor in this type adds
    interaction:  what their sum means
    details:      how it was measured, for reports: any JSON values
    """

    costs: dict[str, dict[str, float]]
    interaction: Interaction = Interaction()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def types(self) -> list[str]:
        """Types that at least one tensor was measured in, in the order of their first mention."""
        return list(dict.fromkeys(name for costs in self.costs.values() for name in costs))


def save_sensitivity(sensitivity: Sensitivity, path: str | os.PathLike) -> None:
    """Write a sensitivity file; it appears whole or not at all."""
    interaction = {"scale": sensitivity.interaction.scale, "exponent": sensitivity.interaction.exponent}
    data = {"format": FORMAT, "interaction": interaction, "details": sensitivity.details, "costs": sensitivity.costs}
    with atomic_output(path) as file:
        file.write(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode())


def load_sensitivity(path: str | os.PathLike) -> Sensitivity:
    """Read a sensitivity file, JSON or CSV. Raises UsageError if there is none, FileFormatError if it is damaged."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix.lower() == ".csv":
        from .thireus import read_results

        return read_results(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise FileFormatError(f"{path}: its format is {data['format']!r}, expected {FORMAT!r}")
        costs = {name: _checked(name, row) for name, row in data["costs"].items()}
        return Sensitivity(costs, Interaction(**data["interaction"]), data.get("details", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: is no sensitivity file: {error!r}") from None


def _checked(name: str, row: Mapping[str, Any]) -> dict[str, float]:
    costs = {kind: float(cost) for kind, cost in row.items()}
    for kind, cost in costs.items():
        if not 0 <= cost < float("inf"):
            raise ValueError(f"{name} in {kind}: the divergence is {cost}")
    return costs

"""How much each layer changes what passes through it, and each expert adds: collected in the run of an imatrix."""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_BLOCK = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class LayerCosines:
    """Mean cosine of the hidden state before and after a layer, and its attention and feed-forward part alone.

    1 for a part that changes no direction, and could as well be left out. The parts are None where a layer computes
    both side by side.
    """

    layer: int
    whole: float
    attention: float | None
    ffn: float | None


@dataclass(frozen=True)
class ExpertSaliency:
    """Per expert of a layer: mean over its tokens of router weight times norm of its output; None if it had no tokens.

    Source: REAP, router-weighted expert activation pruning (arXiv 2510.13999).
    """

    layer: int
    saliency: list[float | None]


@dataclass
class _Mean:
    total: float = 0.0
    n: int = 0

    def add(self, values: NDArray) -> None:
        self.total += float(values.sum(dtype=np.float64))
        self.n += values.size

    @property
    def value(self) -> float | None:
        return self.total / self.n if self.n else None


@dataclass
class Similarity:
    """An inspector for the forward pass (`models.tensors.Inspector`) that averages over all tokens.

    n_experts: of the model
    """

    n_experts: int
    _parts: dict[tuple[int, str], _Mean] = field(default_factory=dict)
    _experts: dict[int, list[_Mean]] = field(default_factory=dict)

    def on_part(self, layer: int, part: str, cosines: NDArray[np.float64]) -> None:
        self._parts.setdefault((layer, part), _Mean()).add(cosines)

    def on_expert(self, weight: str, expert: int, saliencies: NDArray[np.float32]) -> None:
        layer = int(_BLOCK.match(weight)[1])
        self._experts.setdefault(layer, [_Mean() for _ in range(self.n_experts)])[expert].add(saliencies)

    def layers(self) -> list[LayerCosines]:
        """From the first layer to the last."""

        def mean(layer: int, part: str) -> float | None:
            return self._parts.get((layer, part), _Mean()).value

        numbers = sorted({layer for layer, _ in self._parts})
        return [LayerCosines(i, mean(i, "layer"), mean(i, "attention"), mean(i, "ffn")) for i in numbers]

    def experts(self) -> list[ExpertSaliency]:
        """Of the layers that have experts, from the first to the last."""
        return [ExpertSaliency(i, [mean.value for mean in means]) for i, means in sorted(self._experts.items())]

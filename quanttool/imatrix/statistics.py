"""What an imatrix says about each weight, as numbers to look at."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import Entry, Imatrix

ACTIVE_ABOVE = 1e-5  # mean square from which on llama-imatrix calls a channel active
_BLOCK = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class WeightStatistics:
    """One weight's importance, the mean square of each input channel; experts without data left out.

    layer, kind:  number of the block (None outside blocks), and the name within it: 3 and "ffn_down"
    total, minimum, maximum, mean, sigma:  of the channels' importance
    active:       share of channels above 1e-5
    n:            number of channels, of all experts that have data
    entropy:      of the importance as a distribution over channels, in bits; log2(n) if all are equal
    outliers:     share of channels more than one sigma above the mean (llama-imatrix: ZD score)
    cosine:       similarity to the same weight of the layer before, of the sums; None for the first
    """

    name: str
    layer: int | None
    kind: str
    total: float
    minimum: float
    maximum: float
    mean: float
    sigma: float
    active: float
    n: int
    entropy: float
    outliers: float
    cosine: float | None

    @property
    def relative_entropy(self) -> float:
        """Entropy as a share of what equal channels would have, 0 to 1."""
        return self.entropy / np.log2(self.n) if self.n > 1 else 0.0


@dataclass(frozen=True)
class LayerStatistics:
    """Averages over a block's weights, each counted by its number of channels."""

    layer: int
    total: float
    outliers: float
    cosine: float


@dataclass(frozen=True)
class ExpertHits:
    """How the text's tokens were spread over the experts of a block.

    hits:     tokens routed to each expert
    balance:  entropy of the hits relative to equal shares, 0 to 1
    """

    layer: int
    hits: list[int]
    balance: float

    @property
    def unreached(self) -> int:
        return self.hits.count(0)


def expert_hits(imatrix: Imatrix) -> list[ExpertHits]:
    """One line per block that has experts: the expert weights of a block all see the same tokens."""
    layers: dict[int, NDArray[np.int64]] = {}
    for name, entry in imatrix.entries.items():
        block = _BLOCK.match(name)
        if block and len(entry.counts) > 1:
            layers.setdefault(int(block[1]), entry.counts)
    return [
        ExpertHits(layer, counts.tolist(), _entropy(counts) / float(np.log2(len(counts))))
        for layer, counts in sorted(layers.items())
    ]


def weight_statistics(imatrix: Imatrix) -> list[WeightStatistics]:
    """Statistics of every weight that has data, by kind, the largest total first.

    Source: the figures of llama-imatrix --show-statistics (imatrix.cpp, compute_statistics and compute_cossim), in
    float64.
    """
    found = []
    for name, entry in imatrix.entries.items():
        if not entry.counts.any():
            continue
        block = _BLOCK.match(name)
        layer = int(block[1]) if block else None
        kind = name.removesuffix(".weight").rpartition(".")[2]
        before = imatrix.entries.get(f"blk.{layer - 1}.{name[block.end() :]}") if layer else None
        cosine = _cosine(entry, before) if before is not None else None
        found.append(WeightStatistics(name, layer, kind, **_moments(_means(entry)), cosine=cosine))
    return sorted(found, key=lambda weight: (weight.kind, -weight.total))


def layer_statistics(weights: list[WeightStatistics]) -> list[LayerStatistics]:
    """One line per block, from the first to the last."""
    layers: dict[int, list[WeightStatistics]] = {}
    for weight in weights:
        if weight.layer is not None:
            layers.setdefault(weight.layer, []).append(weight)
    result = []
    for layer, members in sorted(layers.items()):
        n = np.array([weight.n for weight in members], np.float64)
        columns = [(weight.total, weight.outliers, weight.cosine or 0.0) for weight in members]
        result.append(LayerStatistics(layer, *(n @ np.array(columns) / n.sum()).tolist()))
    return result


def _means(entry: Entry) -> NDArray[np.float64]:
    """Mean squares of all channels of the experts that have data: f64 [n]."""
    reached = entry.counts > 0
    return (entry.sums_of_squares[reached] / entry.counts[reached, None]).ravel()


def _moments(values: NDArray[np.float64]) -> dict[str, float]:
    total, mean, sigma = values.sum(), values.mean(), values.std()
    return {
        "total": float(total),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
        "mean": float(mean),
        "sigma": float(sigma),
        "active": float((values > ACTIVE_ABOVE).mean()),
        "n": values.size,
        "entropy": _entropy(values),
        "outliers": float((values > mean + sigma).mean()) if sigma > 0 else 0.0,
    }


def _entropy(values: NDArray) -> float:
    """Entropy of the values' shares of their sum, in bits; 0 if they are all 0."""
    positive = values[values > 0]
    p = positive / positive.sum()
    return float(-(p * np.log2(p)).sum()) if len(p) > 1 else 0.0


def _cosine(a: Entry, b: Entry) -> float | None:
    x, y = a.sums_of_squares.ravel(), b.sums_of_squares.ravel()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if x.size == y.size and size else None

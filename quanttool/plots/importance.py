"""What an imatrix shows: importance of weights, use of experts, similarity of layers."""

import math
from collections.abc import Mapping, Sequence

from .svg import heat_map, line_chart


def importance_map(totals: Mapping[tuple[int, str], float]) -> str:
    """Mean square of a weight's inputs for each layer (row) and kind of weight (column), darker where it is larger.

    totals: (layer, kind) -> value; shades are logarithmic, those of 0 stay white. Returns SVG.
    """
    positive = {place: math.log10(value) for place, value in totals.items() if value > 0}
    low, high = min(positive.values(), default=0.0), max(positive.values(), default=0.0)
    cells = {
        (str(layer), kind): ((value - low) / (high - low or 1), f"{totals[layer, kind]:.3g}")
        for (layer, kind), value in positive.items()
    }
    rows = [str(layer) for layer in sorted({layer for layer, _ in totals})]
    kinds = list(dict.fromkeys(kind for _, kind in totals))
    return heat_map(rows, kinds, cells, "mean square of inputs, by layer", cell_width=20, legends=True)


def expert_map(hits: Mapping[int, Sequence[int]]) -> str:
    """Share of a layer's (row's) tokens that each expert (column) saw, darker for more; never reached: white.

    hits: layer -> tokens of each expert. Returns SVG.
    """
    cells = {
        (str(layer), str(expert)): (n / max(counts), f"{n} tokens, {100 * n / sum(counts):.2f} %")
        for layer, counts in hits.items()
        for expert, n in enumerate(counts)
        if n
    }
    columns = [str(expert) for expert in range(max(map(len, hits.values()), default=0))]
    return heat_map([str(layer) for layer in hits], columns, cells, "tokens of each expert, by layer")


def layer_similarity(cosines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """1 - cosine of hidden states before and after each layer, and its parts: name -> (layer, cosine). Returns SVG."""
    series = {
        name: [(layer, max(1 - cosine, 1e-9)) for layer, cosine in points] for name, points in cosines.items() if points
    }
    return line_chart(series, "layer", "1 - cosine of input and output", log_y=True)

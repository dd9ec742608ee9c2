"""How far models with some weights in other types diverge from the original: many in one pass, without files."""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ..evaluate import Chunks, Divergence, ModelPredictions, compare
from ..models.model import Model, Progress
from ..models.side_by_side import Types, side_by_side
from .weights import Weights

COMPARED = 8  # variants whose logits exist at a time


def divergences(
    model: Model,
    chunks: Chunks,
    variants: Sequence[Types],
    weights: Weights,
    progress: Progress | None = None,
    memory: int | None = None,
) -> list[Divergence]:
    """Divergence of each variant (weight -> name of its type) from the model as it is."""
    hidden = side_by_side(model, chunks.tokens, variants, weights.quantized, progress, memory)
    by_output: dict[str, list[int]] = {}
    for i, types in enumerate(variants):
        by_output.setdefault(types.get(model.output.name, ""), []).append(i)
    base = ModelPredictions(model, chunks.scored(hidden[0]))
    found: dict[int, Divergence] = {}
    for output_type, members in by_output.items():
        for start in range(0, len(members), COMPARED):
            some = members[start : start + COMPARED]
            expanded = _Expanded(model, len(some), output_type, weights)
            others = [ModelPredictions(expanded, chunks.scored(hidden[1 + i])) for i in some]
            found |= zip(some, compare(base, others, chunks.targets), strict=True)
    return [found[i] for i in range(len(variants))]


class _Expanded:
    """The output matrix of several variants, each part of it expanded once; in another type if one is given."""

    def __init__(self, model: Model, sharers: int, output_type: str, weights: Weights):
        self._model, self._last = model, None
        self.n_vocab, self.n_embd = model.n_vocab, ceil(model.n_embd / sharers)
        name = model.output.name
        self._replaced = {name: (weights.quantized(name, output_type), output_type)} if output_type else {}

    def output_part(self, tokens: slice) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        if self._last is None or self._last[0] != tokens:
            self._last = None  # before the next part is expanded
            with self._model.tensors.replaced_by(self._replaced):
                self._last = tokens, self._model.output_part(tokens)
        return self._last[1]

"""Many variants of one model in one layer-major pass: some weights in other types, everything else shared.

A variant begins where it first differs: until then it is the model itself, whose pass all of them share. From there on
its hidden states go through the model's own layers with those of the others, as if they were more chunks of text.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .model import Model, Progress
from .scratch import room
from .tensors import Array, Stored

Types = Mapping[str, str]  # weight -> name of its type
Quantized = Callable[[str, str], NDArray[np.uint8]]  # (weight, type) -> bytes, u8 [n_rows, row_bytes]

EMBEDDINGS = "token_embd.weight"


def side_by_side(
    model: Model,
    tokens: NDArray[np.int32],
    variants: Sequence[Types],
    quantized: Quantized,
    progress: Progress | None = None,
    memory: int | None = None,
) -> Array:
    """Normalized inputs of the output matrix, of the model itself and of each variant.

    tokens:     i32 [n_chunks, n_ctx]
    variants:   what each has in other types than the file; those that begin in one layer should stand together
    quantized:  asked once for every weight and type that occur together in a layer
    progress:   called as progress(done, total), in layers times variants
    memory:     bytes that the result may take in memory, past which it is a temporary file
    returns:    f32 [1 + n_variants, n_chunks, n_ctx, n_embd], the model itself first
    """
    slots: list[Types] = [{}, *variants]
    begins = [0, *(first_layer(types) for types in variants)]
    x = room(len(slots), *tokens.shape, model.n_embd, memory=memory)
    x[0] = model.embed(tokens)
    for slot in [slot for slot, begin in enumerate(begins) if begin < 0]:
        with model.tensors.replaced_by(_stored([EMBEDDINGS], slots[slot], quantized)):
            x[slot] = model.embed(tokens)
    n_layer = len(model.layers)
    done, total = 0, sum(n_layer - max(begin, 0) for begin in begins if begin <= n_layer)
    for i, block in enumerate(model.blocks):
        weights = _Remembered(quantized)
        changed = {slot: names for slot, types in enumerate(slots) if (names := _of_layer(types, i))}
        for slot in changed:
            if begins[slot] == i:
                x[slot] = x[0]
        with block.loaded():
            for slot, names in changed.items():
                with block.replaced_by(_stored(names, slots[slot], weights)):
                    model.run_layer(i, x[slot])
                done += 1
                _tell(progress, done, total)
            for run in _runs(slot for slot, begin in enumerate(begins) if begin <= i and slot not in changed):
                model.run_layer(i, x[run].reshape(-1, *x.shape[2:]))
                done += run.stop - run.start
                _tell(progress, done, total)
    for slot, begin in enumerate(begins):
        if begin >= n_layer:  # it differs in the output matrix alone
            x[slot] = x[0]
    model.normalize(x.reshape(-1, *x.shape[2:]))
    return x


def first_layer(types: Types) -> int:
    """The layer where a variant begins to differ: -1 for the embeddings, a large number for the output matrix."""
    if EMBEDDINGS in types:
        return -1
    return min((layer for name in types if (layer := _layer(name)) >= 0), default=1 << 30)


class _Remembered:
    """Quantized weights of one layer: variants share them."""

    def __init__(self, quantized: Quantized):
        self._quantized, self._known = quantized, {}

    def __call__(self, name: str, type_name: str) -> NDArray[np.uint8]:
        if (name, type_name) not in self._known:
            self._known[name, type_name] = self._quantized(name, type_name)
        return self._known[name, type_name]


def _stored(names: Sequence[str], types: Types, quantized: Quantized) -> dict[str, Stored]:
    return {name: (quantized(name, types[name]), types[name]) for name in names}


def _of_layer(types: Types, i: int) -> list[str]:
    return [name for name in types if _layer(name) == i]


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _runs(slots: Iterator[int]) -> list[slice]:
    """Slots that follow each other, as slices."""
    runs: list[slice] = []
    for slot in slots:
        if runs and runs[-1].stop == slot:
            runs[-1] = slice(runs[-1].start, slot + 1)
        else:
            runs.append(slice(slot, slot + 1))
    return runs


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)

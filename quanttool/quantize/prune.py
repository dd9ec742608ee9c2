"""Leaving layers out: the tensors that stay, with their new numbers, and the metadata that counts layers.

llama.cpp's --prune-layers changes block_count alone (src/llama-quant.cpp, `remap_layer`). Here lists with one value per
layer lose those of the layers that go, and the counts of dense first and of predicting last layers follow.
"""

import re
from collections.abc import Collection, Iterable

from ..container import GGUFValueType, Metadata, TensorInfo
from ..container.writer import encode_value
from ..errors import UsageError
from ..recipes.model_facts import layer_number

Encoded = tuple[GGUFValueType, bytes]


def parse_layers(text: str) -> frozenset[int]:
    """Read layer numbers and ranges: `3,10-12`. Raises UsageError that quotes what it cannot read."""
    layers: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", piece)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > 1 << 20:
            raise UsageError(f"--prune-layers {text!r}: {piece!r} is no layer; give numbers from 0, as in 3,10-12")
        layers.update(range(first, last + 1))
    return frozenset(layers)


def pruned_names(tensors: Iterable[TensorInfo], layers: Collection[int]) -> dict[str, str]:
    """New name -> name, of the tensors that stay. Raises UsageError for a layer that the model does not have."""
    names = [tensor.name for tensor in tensors]
    present = sorted({layer_number(name) for name in names} - {-1})
    if unknown := set(layers) - set(present):
        raise UsageError(
            f"--prune-layers: the model has no layer {min(unknown)}; its layers are 0 to {max(present, default=-1)}"
        )
    numbers = {layer: number for number, layer in enumerate(layer for layer in present if layer not in layers)}
    if present and not numbers:
        raise UsageError("--prune-layers: this leaves no layer at all")
    new_names = {}
    for name in names:
        layer = layer_number(name)
        if layer < 0:
            new_names[name] = name
        elif layer in numbers:
            new_names[name.replace(f"blk.{layer}", f"blk.{numbers[layer]}", 1)] = name
    return new_names


def pruned_metadata(metadata: Metadata, layers: Collection[int]) -> dict[str, Encoded]:
    """Keys that change: the layers' count, lists of one value per layer, counts of first and last layers."""
    arch = metadata.get("general.architecture", "")
    n_layer = metadata.get(f"{arch}.block_count", 0)
    if not isinstance(n_layer, int):
        raise UsageError(f"--prune-layers: {arch}.block_count is {n_layer!r}, expected a number")
    u32 = GGUFValueType.UINT32
    changed: dict[str, Encoded] = {}

    def lower(key: str, gone: int) -> None:
        value = metadata.get(f"{arch}.{key}")
        if gone and isinstance(value, int):
            kind = metadata.raw(f"{arch}.{key}")[0]
            changed[f"{arch}.{key}"] = kind, encode_value(value - gone, kind)

    dense = metadata.get(f"{arch}.leading_dense_block_count", 0)
    predicting = metadata.get(f"{arch}.nextn_predict_layers", 0)
    lower("leading_dense_block_count", sum(layer < dense for layer in layers))
    lower("nextn_predict_layers", sum(layer >= n_layer - predicting for layer in layers))
    for key in metadata:
        kind, raw = metadata.raw(key)
        if key.startswith(f"{arch}.") and kind == GGUFValueType.ARRAY:
            value, element = metadata[key], GGUFValueType(int.from_bytes(raw[:4], "little"))
            if len(value) == n_layer and element != GGUFValueType.ARRAY:
                kept = [item for layer, item in enumerate(value) if layer not in layers]
                changed[key] = kind, encode_value(kept, kind, element)
    changed[f"{arch}.block_count"] = u32, encode_value(n_layer - len(layers), u32)
    return changed

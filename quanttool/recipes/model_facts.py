"""What a recipe may know about a model: a few numbers of its metadata, and the order of its tensors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..container import TensorInfo
from ..errors import FileFormatError

_LAYER = re.compile(r"blk\.(\d+)")


@dataclass(frozen=True)
class ModelFacts:
    """A model as mixes see it."""

    arch: str
    n_layer: int
    n_expert: int
    gqa: int  # query heads per key-value head in the first layer; 0 where that layer has no attention
    n_vocab: int = 0
    n_embd: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "ModelFacts":
        """Read from GGUF metadata. Raises FileFormatError if a key holds something else than a number."""
        arch = metadata.get("general.architecture", "")
        if not isinstance(arch, str):
            raise FileFormatError(f"general.architecture is {arch!r}, expected a name")

        def number(key: str, default: int) -> int:
            value = metadata.get(f"{arch}.{key}", default)
            if hasattr(value, "__len__") and not isinstance(value, str):  # one value per layer
                value = value[0] if len(value) else default
            try:
                return int(value)
            except (ValueError, TypeError):
                raise FileFormatError(f"{arch}.{key} is {value!r}, expected a number") from None

        n_head = number("attention.head_count", 0)
        n_head_kv = number("attention.head_count_kv", n_head)
        gqa = n_head // n_head_kv if n_head_kv > 0 else 0
        n_vocab = number("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
        n_embd = number("embedding_length", 0)
        return cls(arch, number("block_count", 0), number("expert_count", 0), gqa, n_vocab, n_embd)


def layer_number(name: str) -> int:
    """Layer of a tensor, as its name says; -1 outside the layers."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def without_layer(name: str) -> str:
    """`blk.3.attn_q.weight` -> `attn_q.weight`"""
    return name[match.end() + 1 :] if (match := _LAYER.match(name)) else name


def in_layer_order(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Tensors outside the layers first, then layer by layer; by name within each. llama.cpp's files have this order."""
    return sorted(tensors, key=lambda tensor: (layer_number(tensor.name), tensor.name))


def n_dims(ne: tuple[int, ...]) -> int:
    """Dimensions that count: trailing ones do not, as in ggml's `ggml_n_dims`."""
    return max((i + 1 for i, n in enumerate(ne) if n > 1), default=1)

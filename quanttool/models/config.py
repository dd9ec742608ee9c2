"""A model's metadata, typed: every key is looked up with the type that it must have."""

from functools import cached_property
from typing import Any

import numpy as np

from ..container import GGUFFile
from ..container.layout import BASE_FILE_TYPE
from ..errors import ModelError

REQUIRED = object()


class Config:
    """Hyperparameters of one model. Keys are given without the architecture's prefix ("attention.head_count").

    A missing key without a default, or a value of another type, is a ModelError that names the key.
    """

    def __init__(self, file: GGUFFile):
        self.path, self._metadata = file.path, file.metadata
        architecture = self._metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelError(f"{self.path}: general.architecture is {architecture!r}, expected the name of one")
        self.architecture = architecture

    def _get(self, key: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        key = f"{self.architecture}.{key}"
        value = self._metadata.get(key, default)
        if value is REQUIRED:
            raise ModelError(f"{self.path}: metadata key {key} is missing; the forward pass needs {expected}")
        if value is default:
            return default
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()  # one value per layer, all the same
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ModelError(f"{self.path}: metadata key {key} is {_short(value)}, expected {expected}")
        return value

    def integer(self, key: str, default: Any = REQUIRED) -> Any:
        value = self._get(key, default, (int,), "a whole number")
        if value is not default and value < 0:
            raise ModelError(f"{self.path}: metadata key {self.architecture}.{key} is {value}, expected 0 or more")
        return value

    def count(self, key: str, default: Any = REQUIRED) -> Any:
        """A whole number that is at least 1."""
        value = self.integer(key, default)
        if value is not default and value < 1:
            raise ModelError(f"{self.path}: metadata key {self.architecture}.{key} is {value}, expected 1 or more")
        return value

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        value = self._get(key, default, (int, float), "a number")
        if value is not default and not np.isfinite(value):
            raise ModelError(
                f"{self.path}: metadata key {self.architecture}.{key} is {value}, expected a finite number"
            )
        return value

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        return self._get(key, default, (bool,), "true or false")

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        return self._get(key, default, (str,), "a text")

    @cached_property
    def n_embd(self) -> int:
        return self.count("embedding_length")

    @cached_property
    def n_layer(self) -> int:
        """Blocks that predict the next token; further ones, that predict more tokens at once, are left out.

        A base file that has the output matrix of a model has none of its blocks.
        """
        if self._metadata.get("general.type") == BASE_FILE_TYPE:
            return 0
        return self.count("block_count") - self.integer("nextn_predict_layers", 0)

    @cached_property
    def n_ff(self) -> int:
        return self.count("feed_forward_length")

    @cached_property
    def n_ff_exp(self) -> int:
        """Width of one routed expert."""
        n_ff_exp = self.integer("expert_feed_forward_length", 0)
        return n_ff_exp or self.n_ff // self.count("expert_used_count")

    @cached_property
    def n_head(self) -> int:
        return self.count("attention.head_count")

    @cached_property
    def n_head_kv(self) -> int:
        """Heads of keys and values; each serves n_head / n_head_kv heads of queries."""
        n_head_kv = self.count("attention.head_count_kv", self.n_head)
        if self.n_head % n_head_kv:
            raise ModelError(f"{self.path}: {self.n_head} heads do not divide into {n_head_kv} key-value heads")
        return n_head_kv

    @cached_property
    def head_size(self) -> int:
        """Values per head of queries and keys."""
        return self.count("attention.key_length", max(1, self.n_embd // self.n_head))

    @cached_property
    def head_size_v(self) -> int:
        """Values per head of values."""
        return self.count("attention.value_length", max(1, self.n_embd // self.n_head))

    @cached_property
    def n_rot(self) -> int:
        """How many values of a head rope rotates."""
        n_rot = self.count("rope.dimension_count", self.head_size)
        if n_rot % 2 or n_rot > self.head_size:
            raise ModelError(
                f"{self.path}: metadata key {self.architecture}.rope.dimension_count is {n_rot}, "
                f"expected an even number up to the head size {self.head_size}"
            )
        return n_rot

    def sliding(self, default_period: int) -> list[bool]:
        """Which layers attend within a sliding window: all but the last of each period, unless metadata lists them."""
        pattern = self._metadata.get(f"{self.architecture}.attention.sliding_window_pattern", default_period)
        if isinstance(pattern, np.ndarray) and len(pattern) >= self.n_layer:
            return [bool(value) for value in pattern[: self.n_layer]]
        period = self.integer("attention.sliding_window_pattern", default_period)
        return [period == 0 or layer % period < period - 1 for layer in range(self.n_layer)]

    @cached_property
    def rms_eps(self) -> float:
        return self.number("attention.layer_norm_rms_epsilon")


def _short(value: Any) -> str:
    if isinstance(value, (list, np.ndarray)):
        return f"a list of {len(value)} values that differ"
    return repr(value)

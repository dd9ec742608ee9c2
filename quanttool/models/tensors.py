"""A model's weights: checked against their expected shape when the model is opened, expanded when a layer is due."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile
from ..errors import ModelError
from ..formats import dequantize_rows

Array = NDArray[np.float32]
# observer(tensor name, x f32 [n_rows, n_cols], expert or None): sees the input rows of every product with a weight
Observer = Callable[[str, Array, int | None], None]


def expand(file: GGUFFile, name: str) -> Array:
    """All values of a tensor as f32 [n_rows, n_cols]; an F32 tensor is a view of the file."""
    info = file.tensors[name]
    data = file.data(name)
    if info.type.name == "F32":
        return data.view(np.float32)
    return dequantize_rows(data, info.type.name, info.n_cols)


class Linear:
    """x @ weight.T + bias, with a weight that is expanded only between `load` and `release`."""

    def __init__(self, tensors: "Tensors", name: str, bias: Array | None):
        self.name, self.bias, self._tensors = name, bias, tensors
        self._weight: Array | None = None  # [n_out, n_in]

    def load(self) -> None:
        self._weight = expand(self._tensors.file, self.name)

    def release(self) -> None:
        self._weight = None

    def __call__(self, x: Array) -> Array:  # [..., n_in] -> [..., n_out]
        if self._weight is None:
            self.load()
        rows = x.reshape(-1, x.shape[-1])
        if self._tensors.observer is not None:
            self._tensors.observer(self.name, rows, None)
        out = rows @ self._weight.T
        if self.bias is not None:
            out += self.bias
        return out.reshape(*x.shape[:-1], out.shape[-1])


class Tensors:
    """The tensors of a model, or of one block (`block(3)`: names then start with "blk.3.")."""

    def __init__(self, file: GGUFFile):
        self.file = file
        self.observer: Observer | None = None

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """ModelError unless the tensor exists with this shape (slowest dimension first)."""
        found = self.file.tensors.get(name)
        expected = list(shape[::-1])  # as ggml prints them
        if found is None:
            raise ModelError(f"{self.file.path}: tensor {name} is missing, expected with shape {expected}")
        if _without_ones(found.shape) != _without_ones(shape):
            raise ModelError(f"{self.file.path}: {name} has shape {list(found.ne)}, expected {expected}")

    def vector(self, name: str, *shape: int) -> Array:
        """A small tensor (norm, bias), expanded at once: f32 of `shape`."""
        self.check(name, shape)
        return expand(self.file, name).reshape(shape)

    def linear(self, name: str, n_out: int, n_in: int) -> Linear:
        """`name`.weight as a product, with `name`.bias where the file has one."""
        self.check(name + ".weight", (n_out, n_in))
        bias = self.vector(name + ".bias", n_out) if self.has(name + ".bias") else None
        return Linear(self, name + ".weight", bias)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GGUF files drop or keep dimensions of 1 at will."""
    return tuple(n for n in shape if n != 1)

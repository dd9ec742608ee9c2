"""A model's weights: checked against their expected shape when the model is opened, expanded when a layer is due."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile
from ..errors import ModelError
from ..formats import dequantize_rows
from ..parallel import for_each_slab, in_order

Array = NDArray[np.float32]
# observer(tensor name, x f32 [n_rows, n_cols], expert or None): sees the input rows of every product with a weight
Observer = Callable[[str, Array, int | None], None]


OUTPUTS_PER_SLAB = 2048


class Watch:
    """Hands the inputs of products to an observer: one call at a time, in the order of the text.

    Work that runs in threads only notes its inputs; they are handed over when its turn comes.
    """

    def __init__(self):
        self.observer: Observer | None = None
        self._thread = threading.local()

    def see(self, name: str, x: Array, expert: int | None = None) -> None:
        notes = getattr(self._thread, "notes", None)
        if notes is not None:
            notes.append((name, x, expert))
        elif self.observer is not None:
            self.observer(name, x, expert)

    def in_order(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """As `parallel.in_order`; what the items' products see is observed before their results are given."""
        if self.observer is None:
            yield from in_order(work, items)
            return
        for result, error, notes in in_order(lambda item: self._noting(work, item), items):
            for note in notes:
                self.observer(*note)
            if error is not None:  # only now: an observer that finds a NaN knows which product it came to
                raise error
            yield result

    def _noting(self, work: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None, list]:
        self._thread.notes = notes = []
        try:
            return work(item), None, notes
        except Exception as error:
            return None, error, notes
        finally:
            self._thread.notes = None


class Tensors:
    """The tensors of a model, or of one block of it: names are then given without "blk.3."."""

    def __init__(self, file: GGUFFile, prefix: str = "", watch: Watch | None = None):
        self.file, self.prefix, self.watch = file, prefix, watch or Watch()
        self.linears: list[Linear] = []  # what `load` expands

    def block(self, index: int) -> "Tensors":
        return Tensors(self.file, f"blk.{index}.", self.watch)

    def load(self) -> None:
        """Expand the weights that were taken with `linear`."""
        for linear in self.linears:
            linear.load()

    def release(self) -> None:
        for linear in self.linears:
            linear.release()

    def has(self, name: str) -> bool:
        return self.prefix + name in self.file.tensors

    def check(self, name: str, *shape: int) -> None:
        """ModelError unless the tensor exists with this shape (slowest dimension first)."""
        name = self.prefix + name
        found = self.file.tensors.get(name)
        expected = list(shape[::-1])  # as ggml prints them
        if found is None:
            raise ModelError(f"{self.file.path}: tensor {name} is missing, expected with shape {expected}")
        if _without_ones(found.shape) != _without_ones(shape):
            raise ModelError(f"{self.file.path}: {name} has shape {list(found.ne)}, expected {expected}")

    def vector(self, name: str, *shape: int) -> Array:
        """A small tensor (norm, bias), expanded at once: f32 of `shape`."""
        self.check(name, *shape)
        return self.expand(self.prefix + name).reshape(shape)

    def optional_vector(self, name: str, *shape: int) -> Array | None:
        return self.vector(name, *shape) if self.has(name) else None

    def linear(self, name: str, n_out: int, n_in: int) -> "Linear":
        """`name`.weight as a product, with `name`.bias where the file has one."""
        self.check(name + ".weight", n_out, n_in)
        linear = Linear(self, self.prefix + name + ".weight", self.optional_vector(name + ".bias", n_out))
        self.linears.append(linear)
        return linear

    def experts(self, name: str, n: int, n_out: int, n_in: int) -> "Experts":
        """`name`.weight as `n` products, with `name`.bias where the file has one."""
        self.check(name + ".weight", n, n_out, n_in)
        return Experts(self, self.prefix + name + ".weight", n, self.optional_vector(name + ".bias", n, n_out))

    def heads(self, name: str, n: int, n_out: int, n_in: int) -> "Heads":
        """`name`.weight as one product per head."""
        self.check(name + ".weight", n, n_out, n_in)
        heads = Heads(self, self.prefix + name + ".weight", n_out)
        self.linears.append(heads)
        return heads

    def expand(self, name: str, rows: slice = slice(None), threads: int | None = None) -> Array:
        """Rows of a tensor (full name) as f32 [n_rows, n_cols]; those of an F32 tensor are a view of the file."""
        info = self.file.tensors[name]
        data = self.file.data(name)[rows]
        if info.type.name == "F32":
            return data.view(np.float32)
        return dequantize_rows(data, info.type.name, info.n_cols, threads)


class Linear:
    """x @ weight.T + bias, with a weight that is expanded only between `load` and `release`."""

    def __init__(self, tensors: Tensors, name: str, bias: Array | None):
        self.name, self.bias, self._tensors = name, bias, tensors
        self.weight: Array | None = None  # [n_out, n_in]

    def load(self) -> None:
        self.weight = self._tensors.expand(self.name)

    def release(self) -> None:
        self.weight = None

    def __call__(self, x: Array) -> Array:  # [..., n_in] -> [..., n_out]
        if self.weight is None:
            self.load()
        rows = x.reshape(-1, x.shape[-1])
        self._tensors.watch.see(self.name, rows)
        out = rows @ self.weight.T
        if self.bias is not None:
            out += self.bias
        return out.reshape(*x.shape[:-1], out.shape[-1])

    def spread(self, x: Array) -> Array:  # [n_rows, n_in] -> [n_rows, n_out]
        """The same for a large weight without bias and few rows: its rows are spread over threads."""
        if self.weight is None:
            self.load()
        self._tensors.watch.see(self.name, x)
        out = np.empty((len(x), len(self.weight)), np.float32)

        def work(slab: slice) -> None:
            np.matmul(x, self.weight[slab].T, out=out[:, slab])

        for_each_slab(work, len(self.weight), OUTPUTS_PER_SLAB)
        return out if self.bias is None else out + self.bias


class Heads(Linear):
    """One product per head, all in one tensor."""

    def __init__(self, tensors: Tensors, name: str, n_out: int):
        super().__init__(tensors, name, None)
        self.n_out = n_out

    def __call__(self, x: Array, head: int) -> Array:  # [n_rows, n_in] -> [n_rows, n_out]
        self._tensors.watch.see(self.name, x, head)
        return x @ self.weight[head * self.n_out : (head + 1) * self.n_out].T


class Experts:
    """One product per expert, all in one tensor. Each is expanded when it is used: all at once may be too much."""

    def __init__(self, tensors: Tensors, name: str, n: int, bias: Array | None):
        self.name, self.n, self.bias, self._tensors = name, n, bias, tensors
        self.n_out = tensors.file.tensors[name].n_rows // n

    def __call__(self, x: Array, expert: int) -> Array:  # [n_rows, n_in] -> [n_rows, n_out]
        self._tensors.watch.see(self.name, x, expert)
        rows = slice(expert * self.n_out, (expert + 1) * self.n_out)
        weight = self._tensors.expand(self.name, rows, threads=1)  # experts run in threads already
        out = x @ weight.T
        if self.bias is not None:
            out += self.bias[expert]
        return out


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GGUF files drop or keep dimensions of 1 at will."""
    return tuple(n for n in shape if n != 1)

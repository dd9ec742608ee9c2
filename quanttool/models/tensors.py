"""A model's weights: checked against their expected shape when the model is opened, expanded when a layer is due."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile
from ..errors import ModelError
from ..formats import dequantize_rows
from ..parallel import default_threads, in_order
from .device import Device
from .kv_cache import KVCache
from .products import Array, Weight

# observer(tensor name, x f32 [n_rows, n_cols], expert or None): sees the input rows of every product with a weight
# With `all_experts` it is given a fourth argument for experts: f32 [n_rows], how much each row counts.
Observer = Callable[..., None]

Stored = tuple[NDArray[np.uint8], str]  # bytes u8 [n_rows, row_bytes] of a tensor, and the name of their type


class Inspector(Protocol):
    """Sees what becomes of the hidden states; called like an observer, one call at a time, in the order of the text."""

    def on_part(self, layer: int, part: str, cosines: NDArray[np.float64]) -> None:
        """Cosine of each hidden state before and after the layer (part "layer"), or its "attention" or "ffn" alone."""

    def on_expert(self, weight: str, expert: int, saliencies: Array) -> None:
        """Norm of an expert's output times its router weight, for each of its tokens; `weight`: its last one."""


# Products whose results attention exponentiates, which magnifies errors: in float32 always. They are about a tenth of
# all products, and would make a third of the error of a pass in bfloat16.
EXPONENTIATED = {"attn_q", "attn_k", "attn_qkv"}


LOOKED_THROUGH = 4096  # rows at a time, in search of NaN: a multiple of what any type weaves together


class Watch:
    """Hands the inputs of products to an observer: one call at a time, in the order of the text.

    Work that runs in threads only notes its inputs; they are handed over when its turn comes.
    """

    def __init__(self):
        self.observer: Observer | None = None
        self.inspector: Inspector | None = None
        self.all_experts = False  # show every expert all rows, with their shares, instead of those routed to it
        self._thread = threading.local()

    def see(self, name: str, x: Array, expert: int | None = None, *shares: Array) -> None:
        notes = getattr(self._thread, "notes", None)
        if notes is not None:
            notes.append((name, x, expert, *shares))
        elif self.observer is not None:
            self.observer(name, x, expert, *shares)

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

    def __init__(
        self,
        file: GGUFFile,
        precision: str,
        cache: KVCache,
        device: Device,
        prefix: str = "",
        watch: Watch | None = None,
    ):
        self.file, self.precision, self.cache, self.device, self.prefix = file, precision, cache, device, prefix
        self.watch = watch or Watch()
        self.linears: list[Linear] = []  # what `load` expands
        self.taken: set[str] = set()  # names of tensors that were asked for
        self.multiplied: list[str] = []  # names of those that are multiplied with: what an observer hears of
        self._replaced: Mapping[str, Stored] = {}

    def block(self, index: int, precision: str) -> "Tensors":
        return Tensors(self.file, precision, self.cache, self.device, f"blk.{index}.", self.watch)

    @contextmanager
    def replaced_by(self, weights: "Mapping[str, Stored]") -> Iterator[None]:
        """A context in which these weights (full names) stand in for those of the file."""
        linears = [linear for linear in self.linears if linear.name in weights and linear.is_loaded]
        self._replaced = weights
        try:
            for linear in linears:
                linear.load()
            yield
        finally:
            self._replaced = {}
            for linear in linears:
                linear.load()

    def reload(self, name: str) -> None:
        """Expand a weight (full name) anew, after what stands in for it has changed."""
        for linear in self.linears:
            if linear.name == name:
                linear.load()

    def stored(self, name: str) -> "Stored":
        """Bytes u8 [n_rows, row_bytes] and type of a tensor (full name): the file's, or what stands in for them."""
        if name in self._replaced:
            return self._replaced[name]
        return self.file.data(name), self.file.tensors[name].type.name

    def read_ahead(self) -> None:
        """Have the system read all tensors whose names start with the prefix, in the background."""

        def read() -> None:
            for name in self._names():
                self.file.will_need(name)

        threading.Thread(target=read, daemon=True).start()  # nobody has to wait for it, not even the end of the process

    @property
    def n_bytes(self) -> int:
        """Size of all tensors whose names start with the prefix, as they are stored."""
        return sum(self.file.tensors[name].n_bytes for name in self._names())

    def damaged(self) -> list[str]:
        """Names of the tensors, of those that were taken, that hold NaN or infinity; expands a part at a time."""
        return [name for name in self._names() if name in self.taken and not self._is_finite(name)]

    def _is_finite(self, name: str) -> bool:
        data, info = self.file.data(name), self.file.tensors[name]
        parts = (data[start : start + LOOKED_THROUGH] for start in range(0, len(data), LOOKED_THROUGH))
        return all(np.isfinite(dequantize_rows(part, info.type.name, info.n_cols)).all() for part in parts)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """A context in which the weights that were taken with `linear` or `heads` are expanded.

        At its end their memory is given back, and that of what was read from the file.
        """
        try:
            for linear in self.linears:
                linear.load()
            yield
        finally:
            for linear in self.linears:
                linear.release()
            for name in self._names():
                self.file.release(name, 0, self.file.tensors[name].n_rows)

    def _names(self) -> list[str]:
        return [name for name in self.file.tensors if name.startswith(self.prefix)]

    def has(self, name: str) -> bool:
        return self.prefix + name in self.file.tensors

    def check(self, name: str, *shape: int) -> None:
        """ModelError unless the tensor exists with this shape (slowest dimension first)."""
        name = self.prefix + name
        self.taken.add(name)
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

    def _check_product(self, name: str, *shape: int) -> None:
        self.check(name + ".weight", *shape)
        self.multiplied.append(f"{self.prefix}{name}.weight")

    def linear(self, name: str, n_out: int, n_in: int) -> "Linear":
        """`name`.weight as a product, with `name`.bias where the file has one."""
        self._check_product(name, n_out, n_in)
        bias = self.optional_vector(name + ".bias", n_out)
        precision = "f32" if name in EXPONENTIATED else self.precision
        linear = Linear(self, self.prefix + name + ".weight", bias, precision)
        self.linears.append(linear)
        return linear

    def experts(self, name: str, n: int, n_out: int, n_in: int) -> "Experts":
        """`name`.weight as `n` products, with `name`.bias where the file has one."""
        self._check_product(name, n, n_out, n_in)
        return Experts(self, self.prefix + name + ".weight", n, self.optional_vector(name + ".bias", n, n_out))

    def heads(self, name: str, n: int, n_out: int, n_in: int) -> "Heads":
        """`name`.weight as one product per head."""
        self._check_product(name, n, n_out, n_in)
        heads = Heads(self, self.prefix + name + ".weight", n, n_out, self.precision)
        self.linears.append(heads)
        return heads

    def expand(self, name: str) -> Array:
        """A tensor (full name) as f32 [n_rows, n_cols]; that of an F32 tensor is a view of the file."""
        info = self.file.tensors[name]
        data = self.file.data(name)
        if info.type.name == "F32":
            return data.view(np.float32)
        return dequantize_rows(data, info.type.name, info.n_cols)

    def weight(self, name: str, precision: str, rows: slice = slice(None)) -> Weight:
        """Rows of a tensor (full name), ready for products."""
        data, type_name = self.stored(name)
        return self.device.weight(data[rows], type_name, self.file.tensors[name].n_cols, precision)


class Linear:
    """x @ weight.T + bias, with a weight that is expanded only between `load` and `release`."""

    def __init__(self, tensors: Tensors, name: str, bias: Array | None, precision: str):
        self.name, self.bias, self.precision, self._tensors = name, bias, precision, tensors
        self._weight: Weight | None = None  # of [n_out, n_in]

    def load(self) -> None:
        self._weight = self._tensors.weight(self.name, self.precision)

    @property
    def is_loaded(self) -> bool:
        return self._weight is not None

    def release(self) -> None:
        self._weight = None

    def part(self, rows: slice) -> Callable[[Array], Array]:
        """The product with some rows of the weight alone: a function [n, n_in] -> [n, n_rows], seen by no observer."""
        weight = self._tensors.weight(self.name, self.precision, rows)
        bias = None if self.bias is None else self.bias[rows]

        def product(x: Array) -> Array:
            out = weight(x, default_threads())
            if bias is not None:
                out += bias
            return out

        return product

    def __call__(self, x: Array) -> Array:  # [..., n_in] -> [..., n_out]
        if self._weight is None:
            self.load()
        rows = x.reshape(-1, x.shape[-1])
        self._tensors.watch.see(self.name, rows)
        out = self._weight(rows, default_threads())
        if self.bias is not None:
            out += self.bias
        return out.reshape(*x.shape[:-1], out.shape[-1])


class Heads(Linear):
    """One product per head, all in one tensor."""

    def __init__(self, tensors: Tensors, name: str, n: int, n_out: int, precision: str):
        super().__init__(tensors, name, None, precision)
        self._weights: list[Weight] | None = None
        self.rows = [slice(head * n_out, (head + 1) * n_out) for head in range(n)]

    def load(self) -> None:
        self._weights = [self._tensors.weight(self.name, self.precision, rows) for rows in self.rows]

    @property
    def is_loaded(self) -> bool:
        return self._weights is not None

    def release(self) -> None:
        self._weights = None

    def __call__(self, x: Array, head: int) -> Array:  # [n_rows, n_in] -> [n_rows, n_out]
        self._tensors.watch.see(self.name, x, head)
        return self._weights[head](x, default_threads())


class Experts:
    """One product per expert, all in one tensor. Each is expanded when it is used: all at once may be too much."""

    def __init__(self, tensors: Tensors, name: str, n: int, bias: Array | None):
        self.name, self.n, self.bias, self._tensors = name, n, bias, tensors
        self.n_out = tensors.file.tensors[name].n_rows // n

    def show(self, x: Array, expert: int, shares: Array | None = None) -> None:
        """Have the observer see inputs of an expert; shares: f32 [n_rows], how much each counts if all are shown."""
        watch = self._tensors.watch
        if watch.all_experts == (shares is not None):
            watch.see(self.name, x, expert, *([] if shares is None else [shares]))

    def __call__(
        self, x: Array, expert: int, shares: Array | None = None
    ) -> Array:  # [n_rows, n_in] -> [n_rows, n_out]
        self.show(x, expert, shares)
        rows = slice(expert * self.n_out, (expert + 1) * self.n_out)
        out = self._tensors.weight(self.name, self._tensors.precision, rows)(x, default_threads())
        if self.bias is not None:
            out += self.bias[expert]
        return out


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GGUF files drop or keep dimensions of 1 at will."""
    return tuple(n for n in shape if n != 1)

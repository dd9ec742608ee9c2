"""Input covariance X^T X of every weight, in a file of our own that is written while the text passes through.

GGUF: per weight a float32 tensor `<weight>.in_xtx` and `<weight>.counts` (docs/file-formats/hessian.md). All sizes are
known before the run, so the file is made whole, mapped, and added to in place: what is in memory is the layer that is
being computed.
"""

import os
from collections.abc import Iterable, Mapping
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .. import blas
from ..container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from ..container.writer import encode_value
from ..errors import FileFormatError, ImatrixError, UsageError
from ..files import part_path
from ..ggml_types import ggml_type
from ..parallel import for_each

KINDS = ("block", "full")
BLOCK = 256  # columns of a diagonal block: the super-blocks of k-quants and their kin
XTX_SUFFIX, COUNTS_SUFFIX = ".in_xtx", ".counts"
PREFIX = "quanttool.hessian."


class HessianWriter:
    """An observer for the forward pass that adds up X^T X of the inputs of every weight. Use as a context manager.

    Called as writer(tensor name, x f32 [n_rows, n_cols], expert or None). Experts, and the heads of weights with one
    matrix per head, each have their own sum. Sums are float32, each product over one batch of rows. A fourth argument,
    shares f32 [n_rows], says how much each row counts.

    path:        file to write; it appears only if the block succeeds
    kind:        "block": the 256 x 256 blocks on the diagonal; "full": all of X^T X
    weights:     names of the weights to record; other products are passed over
    tensors:     the model's tensors
    provenance:  what is known about the run: key -> text

    Raises UsageError for an unknown kind, QuanttoolError if the disk has no room for the file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        kind: str,
        weights: Iterable[str],
        tensors: Mapping[str, TensorInfo],
        provenance: Mapping[str, str] | None = None,
    ):
        if kind not in KINDS:
            raise UsageError(f"unknown kind of Hessian {kind!r}; known are {', '.join(KINDS)}")
        self._add = add_blocks if kind == "block" else add_whole
        f32, infos = ggml_type("F32"), []
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name in weights:
            ne = tensors[name].ne
            n_matrices = ne[2] if len(ne) > 2 else 1  # experts, or heads
            self._shapes[name] = shape = hessian_shape(kind, ne[0], n_matrices)
            infos.append(TensorInfo(name + XTX_SUFFIX, f32, shape[::-1]))
            infos.append(TensorInfo(name + COUNTS_SUFFIX, f32, (1, n_matrices)))
        string = GGUFValueType.STRING
        texts = {"general.type": "hessian", PREFIX + "kind": kind}
        texts |= {PREFIX + key: value for key, value in sorted((provenance or {}).items())}
        metadata = {key: (string, encode_value(value, string)) for key, value in texts.items()}
        self._counts = {name: np.zeros(shape[0]) for name, shape in self._shapes.items()}
        self._writer = GGUFWriter(path, metadata, infos)
        self._part = part_path(path)
        self._open: dict[str, NDArray[np.float32]] = {}  # maps of the weights of the layer that is being computed
        self._layer = ""

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self._writer.n_bytes

    def __enter__(self) -> "HessianWriter":
        self._writer.__enter__()
        return self

    def __exit__(self, *exception) -> bool | None:
        self._open.clear()
        if exception[0] is None:
            for name, counts in self._counts.items():
                self._writer.write_rows(name + COUNTS_SUFFIX, 0, counts.astype("<f4")[:, None].view(np.uint8))
        return self._writer.__exit__(*exception)

    def __call__(
        self, name: str, x: NDArray[np.float32], expert: int | None = None, shares: NDArray[np.float32] | None = None
    ) -> None:
        if name not in self._shapes:
            return
        matrix = expert or 0
        if shares is not None:
            x = x * np.sqrt(shares)[:, None]
        with blas.threads(1):
            self._add(x, self._mapped(name)[matrix])
        self._counts[name][matrix] += len(x) if shares is None else shares.sum(dtype=np.float64)

    def _mapped(self, name: str) -> NDArray[np.float32]:
        """The sums of a weight, f32 of its shape, as they are in the file; those of the layer before are let go."""
        layer = ".".join(name.split(".")[:2])
        if layer != self._layer:
            self._open.clear()
            self._layer = layer
        if name not in self._open:
            info = self._writer.tensors[name + XTX_SUFFIX]
            offset = self._writer.data_start + info.offset
            self._open[name] = np.memmap(self._part, "<f4", "r+", offset, self._shapes[name])
        return self._open[name]


def hessian_shape(kind: str, n_cols: int, n_matrices: int) -> tuple[int, ...]:
    """Shape of the sums of a weight, slowest dimension first."""
    if kind == "full":
        return n_matrices, n_cols, n_cols
    return n_matrices, ceil(n_cols / BLOCK), BLOCK, BLOCK


def add_blocks(x: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
    """Add the diagonal blocks of x^T x: x [n_rows, n_cols], sums [ceil(n_cols / 256), 256, 256]."""

    def work(block: int) -> None:
        part = x[:, block * BLOCK : (block + 1) * BLOCK]
        n = part.shape[1]
        sums[block, :n, :n] += part.T @ part

    for_each(work, range(len(sums)))


def add_whole(x: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
    """Add x^T x: x [n_rows, n_cols], sums [n_cols, n_cols]. What is below the diagonal is copied, not computed."""

    def work(start: int) -> None:
        stop = min(start + BLOCK, x.shape[1])
        product = x[:, start:stop].T @ x[:, start:]
        sums[start:stop, start:] += product
        sums[stop:, start:stop] += product[:, stop - start :].T

    for_each(work, range(0, x.shape[1], BLOCK))


class HessianFile:
    """A file of X^T X, mapped: `hessian[weight]` is read when it is asked for.

    kind:     "block" or "full"
    weights:  names of the weights

    Raises FileFormatError if it is no such file.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = GGUFFile(path)
        self.kind = self._file.metadata.get(PREFIX + "kind")
        if self._file.metadata.get("general.type") != "hessian" or self.kind not in KINDS:
            raise FileFormatError(f"{path}: is no file of input covariances; make one with quanttool imatrix --hessian")
        names = self._file.tensors
        self.weights = [name.removesuffix(XTX_SUFFIX) for name in names if name.endswith(XTX_SUFFIX)]
        for weight in self.weights:
            if weight + COUNTS_SUFFIX not in names:
                raise FileFormatError(f"{path}: {weight} has sums but no counts; the file is damaged, make it anew")

    def __getitem__(self, weight: str) -> NDArray[np.float32]:
        """Sums of x^T x: "full" f32 [n_matrices, n_cols, n_cols], "block" f32 [n_matrices, n_blocks, 256, 256]."""
        info = self._file.tensors.get(weight + XTX_SUFFIX)
        if info is None:
            raise ImatrixError(f"{weight}: {self._file.path} has no covariance of its inputs")
        n_matrices = len(self.counts(weight))
        inner = info.ne[1::-1] if self.kind == "full" else (info.n_values // (n_matrices * BLOCK**2), BLOCK, BLOCK)
        return self._file.data(weight + XTX_SUFFIX).view("<f4").reshape(n_matrices, *inner)

    def counts(self, weight: str) -> NDArray[np.float32]:
        """Rows that were summed, f32 [n_matrices]; of experts that were shown all rows, the sum of their shares."""
        return self._file.data(weight + COUNTS_SUFFIX).reshape(-1).view("<f4")

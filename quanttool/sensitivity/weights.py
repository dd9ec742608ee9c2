"""A model's weights in other types: whole, or rows of them for an error."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile, TensorInfo
from ..formats import block_format, dequantize_rows, quantize_rows
from ..ggml_types import ggml_type
from ..imatrix import Imatrix
from ..imatrix.hessian import BLOCK, HessianFile

SAMPLED_ROWS = 64  # of a tensor: the mean error of so many scatters by a few percent, and alike for all types
SAMPLED_MATRICES = 8  # experts of a tensor that rows are taken from


class Weights:
    """Weights of a model's file, quantized as `quanttool quantize` would.

    imatrix:  importance of columns for the search; None for none
    """

    def __init__(self, file: GGUFFile, imatrix: Imatrix | None = None, search: str = "reference"):
        self.file, self.imatrix, self.search = file, imatrix, search

    def quantized(self, name: str, type_name: str) -> NDArray[np.uint8]:
        """A whole tensor's bytes in a type: u8 [n_rows, row_bytes]."""
        info = self.file.tensors[name]
        data, source = self.file.data(name), info.type.name
        step = _rows_of_matrix(info)
        parts = [
            self._quantized(self._values(data[start : start + step], source, info), name, start // step, type_name)
            for start in range(0, info.n_rows, step)
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def can_quantize(self, name: str, type_name: str) -> bool:
        """Whether a type can be written, with the importance that there is."""
        kind = block_format(type_name)
        info = self.file.tensors[name]
        if info.n_cols % kind.type.block_size or not kind.can_quantize:
            return False
        return kind.importance != "required" or self._importance(name, 0) is not None

    def sample(self, name: str, hessian: HessianFile | None = None) -> "Sample":
        return Sample(self, name, hessian)

    def _importance(self, name: str, matrix: int) -> NDArray[np.float32] | None:
        if self.imatrix is None or name not in self.imatrix.entries:
            return None
        values = self.imatrix.importance(name, self.file.tensors[name].n_cols)
        return values[min(matrix, len(values) - 1)]

    def _quantized(self, rows: NDArray, name: str, matrix: int, type_name: str) -> NDArray[np.uint8]:
        importance = self._importance(name, matrix)
        if block_format(type_name).importance == "ignored":
            importance = None
        return quantize_rows(rows, type_name, importance, self.search)

    @staticmethod
    def _values(data: NDArray[np.uint8], source: str, info: TensorInfo) -> NDArray[np.float32]:
        return data.view(np.float32) if source == "F32" else dequantize_rows(data, source, info.n_cols)


class Sample:
    """Some rows of a tensor, and how much an error in them counts: mean squares of the inputs, or their covariance.

    Without either every column counts the same.
    """

    def __init__(self, weights: Weights, name: str, hessian: HessianFile | None):
        info = weights.file.tensors[name]
        rows_each, n_matrices = _rows_of_matrix(info), info.n_rows // _rows_of_matrix(info)
        matrices = _spread(n_matrices, SAMPLED_MATRICES)
        self._weights, self._name, self._info = weights, name, info
        self._matrices = matrices
        self._rows: list[NDArray[np.float32]] = []
        for matrix in matrices:
            places = matrix * rows_each + _spread(rows_each, max(1, SAMPLED_ROWS // len(matrices)))
            data = weights.file.data(name)[places]
            self._rows.append(weights._values(np.ascontiguousarray(data), info.type.name, info))
        self._hessian = hessian if hessian is not None and name in hessian.weights else None

    def error(self, type_name: str) -> float:
        """Mean squared error of the product with the inputs, per row of the weight and row of the input."""
        total = n_rows = 0.0
        for matrix, rows in zip(self._matrices, self._rows, strict=True):
            data = self._weights._quantized(rows, self._name, matrix, type_name)
            delta = rows - dequantize_rows(data, type_name, self._info.n_cols)
            total += self._weighted(delta, matrix)
            n_rows += len(rows)
        return total / n_rows

    def _weighted(self, delta: NDArray[np.float32], matrix: int) -> float:
        if self._hessian is not None:
            return _quadratic(delta, self._hessian[self._name][matrix], float(self._hessian.counts(self._name)[matrix]))
        importance = self._weights._importance(self._name, matrix)
        squares = (delta.astype(np.float64) ** 2).sum(axis=0)
        return float(squares.sum() if importance is None else squares @ importance)


def errors(sample: Sample, types: Iterable[str]) -> dict[str, float]:
    """Type -> error of a sample; a woven type has that of the type whose rows it weaves."""
    return {type_name: sample.error(type_name) for type_name in types if ggml_type(type_name).rows_interleaved == 1}


def _quadratic(delta: NDArray[np.float32], sums: NDArray[np.float32], count: float) -> float:
    """sum over rows of delta H delta^T, H = sums / count, whole or in blocks of 256 on the diagonal."""
    if count == 0:
        return float((delta.astype(np.float64) ** 2).sum())
    if sums.ndim == 2:
        return float(np.einsum("ri,ri->", delta @ sums, delta, dtype=np.float64)) / count
    total = 0.0
    for i, block in enumerate(sums):
        part = delta[:, i * BLOCK : (i + 1) * BLOCK]
        n = part.shape[1]
        total += float(np.einsum("ri,ri->", part @ block[:n, :n], part, dtype=np.float64))
    return total / count


def _rows_of_matrix(info: TensorInfo) -> int:
    return info.ne[1] if len(info.ne) > 1 else 1


def _spread(n: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of the numbers below n, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(np.int64))

"""Fallbacks that are measured: within the bits that were asked for, the type that harms this tensor least."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile, ShardedGGUF
from ..formats import Search, available_formats, block_format, read_only
from ..ggml_types import BY_NAME, GGMLType
from ..imatrix import Imatrix
from ..recipes.limits import matrix_rows
from .plan import Plan, PlannedTensor

SAMPLED_ROWS = 64  # of each tensor, evenly spread over its matrices
NEAR = 0.75  # candidates have at least this share of the bits: fewer never win, and each has kernels to compile


def measure_fallbacks(
    plan: Plan, source: GGUFFile | ShardedGGUF, imatrix: Imatrix | None, search: Search = "reference"
) -> None:
    """Replace the fallbacks of a plan by the types of least error, weighted by importance, on a sample of the rows.

    A type may take as many bits as the one that was asked for; where none is that small, as many as the fallback that
    the table names. Types of ik_llama.cpp stand in for its own types only. Without the weights nothing changes.
    """
    fallen = [index for index, tensor in enumerate(plan.tensors) if candidates(tensor)]
    if fallen and not source.has_data:
        plan.warnings.append("--fallback best measures weights, and this is a header only: the table's types are shown")
        return
    for index in fallen:
        tensor = plan.tensors[index]
        rows, importance = _sample(tensor, source, imatrix)
        kinds = candidates(tensor)
        errors = {kind: _error(kind, rows, importance, tensor, search) for kind in kinds}
        best = min(kinds, key=errors.__getitem__)
        measured = ", ".join(f"{kind} {errors[kind]:.2e}" for kind in kinds)
        plan.tensors[index] = replace(tensor, type=best, reason=f"{tensor.reason}; errors: {measured}")


def candidates(tensor: PlannedTensor) -> list[GGMLType]:
    """Types that may stand in for the one that a tensor was to have, in the order of their names; may be none."""
    wanted, n_cols = tensor.wanted, tensor.source.n_cols
    if wanted is None or n_cols % wanted.block_size == 0 or tensor.type.is_plain:
        return []  # woven rows need no other bits, and rows that 32 does not divide have no choice
    fitting = [kind for kind in map(BY_NAME.get, sorted(available_formats())) if _suits(kind, tensor)]
    within = [kind for kind in fitting if NEAR * wanted.bpw <= _bpw(kind, n_cols) <= wanted.bpw]
    table = _bpw(tensor.type, n_cols)
    return within or [kind for kind in fitting if NEAR * table <= _bpw(kind, n_cols) <= table]


def _suits(kind: GGMLType, tensor: PlannedTensor) -> bool:
    return not (
        kind.is_plain
        or kind.rows_interleaved > 1
        or tensor.source.n_cols % kind.block_size
        or (kind.origin != "llama.cpp" and tensor.wanted.origin == "llama.cpp")
        or (block_format(kind).importance == "required" and not tensor.importance)
    )


def _bpw(kind: GGMLType, n_cols: int) -> float:
    return 8 * kind.row_bytes(n_cols) / n_cols


def _sample(
    tensor: PlannedTensor, source: GGUFFile | ShardedGGUF, imatrix: Imatrix | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Some rows, f32 [n_rows, n_cols], and the importance of their columns, of the same shape."""
    n_rows, n_cols = tensor.source.n_rows, tensor.source.n_cols
    chosen = np.unique(np.linspace(0, n_rows - 1, min(n_rows, SAMPLED_ROWS)).astype(np.int64))
    data = read_only(np.ascontiguousarray(source.data(tensor.source.name)[chosen]))
    rows = np.empty((len(chosen), n_cols), np.float32)
    block_format(tensor.source.type).dequantize(data, rows)
    if not (imatrix and tensor.importance):
        return read_only(rows), None
    importance = imatrix.importance(tensor.source.name, n_cols)
    return read_only(rows), importance[chosen // matrix_rows(tensor.source)]


def _error(
    kind: GGMLType,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    tensor: PlannedTensor,
    search: Search,
) -> float:
    """Squared error of a type, weighted by importance, relative to the weights."""
    target = block_format(kind)
    out = np.empty((len(rows), kind.row_bytes(tensor.source.n_cols)), np.uint8)
    for row in range(len(rows)):
        columns = None if importance is None or target.importance == "ignored" else read_only(importance[row])
        target.quantize(rows[row : row + 1], columns, target.search_for(search, columns), out[row : row + 1])
    values = np.empty_like(rows)
    target.dequantize(read_only(out), values)
    weights = np.ones_like(rows, np.float64) if importance is None else importance.astype(np.float64)
    size = (weights * rows.astype(np.float64) ** 2).sum()
    return float((weights * (rows.astype(np.float64) - values) ** 2).sum() / size) if size > 0 else 0.0

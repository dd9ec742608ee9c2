"""Carry out a plan: read, expand, quantize and write slabs of rows in a pool of threads.

A slab is a few hundred rows of one matrix. Threads take slabs in file order as they become free, whichever tensor they
belong to, and write the bytes where they belong; so memory is a slab or two per thread, whatever the tensors' sizes.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import lcm
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile, GGUFWriter, ShardedGGUF
from ..errors import QuantizeError, UsageError
from ..files import check_output
from ..formats import BlockFormat, Search, block_format, check_finite, read_only, rows_per_slab
from ..imatrix import Imatrix
from ..parallel import for_each
from .plan import Plan, PlannedTensor

Progress = Callable[[int, int], None]  # progress(weights done, weights in all)


@dataclass(frozen=True)
class Slab:
    """Rows of one matrix of one tensor, and the importance of their columns."""

    tensor: PlannedTensor
    first_row: int  # counted over all matrices of the tensor
    n_rows: int
    importance: NDArray[np.float32] | None  # f32 [n_cols]


def run(
    source: GGUFFile | ShardedGGUF,
    plan: Plan,
    output: str | os.PathLike,
    imatrix: Imatrix | None = None,
    search: Search = "reference",
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the planned file; it appears whole or not at all, and does not depend on `threads`.

    Raises the plan's first problem, UsageError for a type that cannot be written or an output that is the input, and
    QuantizeError for weights that are NaN or infinite, with their place.
    """
    check_output(output, source.paths)
    if plan.problems:
        raise plan.problems[0]
    check_formats(plan)
    lock, done, total = Lock(), 0, plan.n_values

    with GGUFWriter(output, plan.metadata, [tensor.target for tensor in plan.tensors], plan.alignment) as writer:

        def work(slab: Slab) -> None:
            nonlocal done
            tensor = slab.tensor
            data = source.data(tensor.name)[slab.first_row : slab.first_row + slab.n_rows]
            writer.write_rows(tensor.name, slab.first_row, _converted(slab, data, search))
            source.release(tensor.name, slab.first_row, slab.n_rows)
            if progress:
                with lock:
                    done += slab.n_rows * tensor.source.n_cols
                    progress(done, total)

        for_each(work, slabs(plan, imatrix), threads)


def check_formats(plan: Plan) -> None:
    """Raise UsageError if a type cannot be read, cannot be written, or lacks the importance that it needs."""
    for tensor in plan.tensors:
        if not tensor.searches:
            continue
        block_format(tensor.source.type)
        target = block_format(tensor.type)
        if not target.can_quantize:
            raise UsageError(f"{tensor.name}: {tensor.type} can be read here, but not written")
        if target.importance == "required" and not tensor.importance:
            raise UsageError(f"{tensor.name}: {tensor.type} cannot be computed without importance; choose another type")


def slabs(plan: Plan, imatrix: Imatrix | None) -> Iterator[Slab]:
    """All slabs in file order. None crosses from one matrix (expert) to the next: each has its own importance."""
    for tensor in plan.tensors:
        ne = tensor.source.ne
        matrix_rows = ne[1] if len(ne) > 1 else 1
        step = rows_per_slab(ne[0], lcm(tensor.type.rows_interleaved, tensor.source.type.rows_interleaved))
        importance = _importance(tensor, imatrix)
        for matrix_start in range(0, tensor.source.n_rows, matrix_rows):
            columns = importance[matrix_start // matrix_rows] if importance is not None else None
            for row in range(matrix_start, matrix_start + matrix_rows, step):
                yield Slab(tensor, row, min(step, matrix_start + matrix_rows - row), columns)


def _importance(tensor: PlannedTensor, imatrix: Imatrix | None) -> NDArray[np.float32] | None:
    """f32 [n_matrices, n_cols], or None where the imatrix has no say."""
    if not (imatrix and tensor.importance and tensor.searches) or block_format(tensor.type).importance == "ignored":
        return None
    values = imatrix.importance(tensor.name, tensor.source.n_cols)
    return read_only(np.ascontiguousarray(values, np.float32))


def _converted(slab: Slab, data: NDArray[np.uint8], search: Search) -> NDArray[np.uint8]:
    """Bytes of a slab in the target's type, u8 [n_rows, row_bytes]."""
    tensor = slab.tensor
    if not tensor.converts and tensor.type.name not in ("F32", "F16", "BF16"):
        return data
    if tensor.converts and not tensor.searches:
        from ..formats.repacked import rewoven  # brings in every family of ik_llama.cpp

        return rewoven(data, tensor.source.type.name, tensor.type.name, tensor.source.n_cols)
    try:
        rows = _values(block_format(tensor.source.type), data, tensor.source.n_cols)
        check_finite(rows, slab.first_row)
        if not tensor.converts:
            return data
        out = np.empty((slab.n_rows, tensor.target.row_bytes), np.uint8)
        block_format(tensor.type).quantize(rows, slab.importance, search, out)
        if tensor.type.name == "F16":  # a large weight overflows
            check_finite(out.view(np.float16), slab.first_row)
    except QuantizeError as error:
        raise QuantizeError(f"{tensor.name}: {error}") from None
    return out


def _values(source: BlockFormat, data: NDArray[np.uint8], n_cols: int) -> NDArray[np.float32]:
    """The weights as f32 [n_rows, n_cols]: the mapped file itself where it holds them so."""
    if source.name == "F32":
        rows = data.view(np.float32)
        return rows if rows.flags.aligned else read_only(rows.copy())
    rows = np.empty((len(data), n_cols), np.float32)
    source.dequantize(data, rows)
    return read_only(rows)

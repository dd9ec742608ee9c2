"""Carry out a plan: read, expand, quantize and write slabs of rows in a pool of threads.

A slab is a few hundred rows of one matrix. Threads take slabs in file order as they become free, whichever tensor they
belong to, and write the bytes where they belong; so memory is a slab or two per thread, whatever the tensors' sizes.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import lcm
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile, GGUFWriter, ShardedGGUF, ShardedGGUFWriter
from ..errors import QuantizeError, UsageError
from ..files import check_output
from ..formats import BlockFormat, Search, block_format, check_finite, read_only, rows_per_slab
from ..imatrix import Imatrix
from ..parallel import default_threads, for_each, in_order
from .identity import tensor_keys
from .importance import importance_of
from .journal import Journal, run_key
from .memory import fitting, reading_ahead
from .plan import Plan, PlannedTensor
from .proof import Errors, expanded
from .provenance import reusable_tensors

Progress = Callable[[int, int], None]  # progress(weights done, weights in all)


@dataclass(frozen=True)
class Slab:
    """Rows of one matrix of one tensor, and the importance of their columns."""

    tensor: PlannedTensor
    first_row: int  # counted over all matrices of the tensor
    n_rows: int
    importance: NDArray[np.float32] | None  # f32 [n_cols]


class Calibration(Protocol):
    """Makes the bytes of the plan's calibrated tensors, in an order of its own (`feedback.layers.Calibration`)."""

    def tensors(self, finished: Callable[[str], NDArray[np.uint8] | None]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Names and bytes u8 [n_rows, row_bytes]; finished(name) are those of an earlier run, or None."""


@dataclass
class Result:
    """What a run did: names of tensors kept from an interrupted run and from an earlier result; errors by tensor.

    calibrated:  names of tensors that a calibration made
    """

    resumed: set[str]
    reused: set[str]
    errors: dict[str, Errors]
    calibrated: set[str] = field(default_factory=set)


def run(
    source: GGUFFile | ShardedGGUF,
    plan: Plan,
    output: str | os.PathLike,
    imatrix: Imatrix | None = None,
    search: Search = "reference",
    threads: int | None = None,
    progress: Progress | None = None,
    reuse: GGUFFile | ShardedGGUF | None = None,
    measure: bool = False,
    memory: int | None = None,
    calibration: Calibration | None = None,
) -> Result:
    """Write the planned file; it appears whole or not at all, and does not depend on `threads` and `memory`.

    Goes on where an earlier run of the same work was killed: tensors that it finished are verified and kept.

    reuse:    an earlier result; tensors made from the same weights and importance into the same type are copied
    measure:  measure the error of every tensor that is quantized
    memory:   bytes that the run may take, mapped files aside; None: what its threads need
    calibration:  makes the tensors that the plan calls calibrated

    Raises the plan's first problem, UsageError for too little memory, a type that cannot be written or an output
    that is the input, and QuantizeError for weights that are NaN or infinite, with their place.
    """
    writer = plan.writer(output)
    for path in writer.paths:
        check_output(path, [*source.paths, *(reuse.paths if reuse else [])])
    if plan.problems:
        raise plan.problems[0]
    check_formats(plan)
    slab_values, threads = fitting(plan, memory, threads or default_threads())
    keys = tensor_keys(plan, source, imatrix, search)
    reused = reusable_tensors(reuse, plan, keys) if reuse else set()
    journal = Journal(output, run_key(writer, source, keys), writer.paths)
    interrupted = False
    try:
        with writer:
            resumed = _verified(writer, journal.finished, threads)
            journal.open(resumed)
            result = Result(resumed, reused - resumed, {tensor.name: Errors() for tensor in plan.tensors if measure})
            work = _Work(source, plan, writer, journal, search, progress, reuse, result)
            if calibration:
                work.take(calibration)
            todo = (slab for slab in slabs(plan, imatrix, slab_values) if measure or slab.tensor.name not in resumed)
            for_each(work, reading_ahead(todo, source), threads)
            writer.sync()
            journal.whole()
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        journal.close(keep=interrupted)
    quantized = {tensor.name for tensor in plan.tensors if tensor.searches}
    result.errors = {name: errors for name, errors in result.errors.items() if name in quantized}
    return result


class _Work:
    """Converts slabs, from several threads; proves them; notes every tensor in the journal as soon as it is whole."""

    def __init__(
        self,
        source: GGUFFile | ShardedGGUF,
        plan: Plan,
        writer: GGUFWriter | ShardedGGUFWriter,
        journal: Journal,
        search: Search,
        progress: Progress | None,
        reuse: GGUFFile | ShardedGGUF | None,
        result: Result,
    ):
        self.source, self.writer, self.journal, self.search, self.progress = source, writer, journal, search, progress
        self.reuse, self.result = reuse, result
        self.rows_left = {tensor.name: tensor.source.n_rows for tensor in plan.tensors}
        self.done = 0 if result.errors else sum(t.source.n_values for t in plan.tensors if t.name in result.resumed)
        self.total = plan.n_values
        self.lock = Lock()

    def __call__(self, slab: Slab) -> None:
        started = time.monotonic()
        name, rows = slab.tensor.name, slice(slab.first_row, slab.first_row + slab.n_rows)
        data = self.source.data(slab.tensor.source.name)[rows]
        if name in self.result.reused:
            self.writer.write_rows(name, slab.first_row, self.reuse.data(name)[rows])
            self.reuse.release(name, slab.first_row, slab.n_rows)
        elif name not in self.result.resumed | self.result.calibrated:
            self.writer.write_rows(name, slab.first_row, _converted(slab, data, self.search))
        if slab.tensor.searches:
            self._prove(slab, data, started)
        self.source.release(slab.tensor.source.name, slab.first_row, slab.n_rows)
        with self.lock:
            self.rows_left[name] -= slab.n_rows
            whole = not self.rows_left[name] and name not in self.result.resumed | self.result.calibrated
            if name not in self.result.calibrated:
                self._tell(slab.n_rows * slab.tensor.source.n_cols)
        if whole:
            self._finish(name)

    def take(self, calibration: Calibration) -> None:
        """Write the tensors that a calibration makes; they are proven as slabs, like all others."""
        for name, data in calibration.tensors(self._finished):
            if name not in self.result.resumed | self.result.reused:
                self.result.calibrated.add(name)
                self.writer.write_rows(name, 0, data)
                self._finish(name)
                self._tell(self.writer.tensors[name].n_values)

    def _finished(self, name: str) -> NDArray[np.uint8] | None:
        if name in self.result.reused:
            return self.reuse.data(name)
        if name not in self.result.resumed:
            return None
        return self.writer.read_rows(name, 0, self.writer.tensors[name].n_rows)

    def _finish(self, name: str) -> None:
        sha256 = _sha256(self.writer, name)
        with self.lock:
            self.journal.add(name, sha256)
        self.writer.start_writing(name)

    def _tell(self, n_values: int) -> None:
        self.done += n_values
        if self.progress:
            self.progress(self.done, self.total)

    def _prove(self, slab: Slab, data: NDArray[np.uint8], started: float) -> None:
        tensor = slab.tensor
        values = expanded(tensor, self.writer.read_rows(tensor.name, slab.first_row, slab.n_rows), slab.first_row)
        if errors := self.result.errors.get(tensor.name):
            rows = _values(block_format(tensor.source.type), data, tensor.source.n_cols)
            of_slab = Errors()
            of_slab.add(rows, values, slab.importance)
            with self.lock:
                errors.merge(of_slab, time.monotonic() - started)


def _verified(writer: GGUFWriter | ShardedGGUFWriter, finished: dict[str, str], threads: int | None) -> set[str]:
    """Names of tensors whose bytes are those that an earlier run has written."""
    names = list(finished)
    hashes = in_order(lambda name: _sha256(writer, name), names, threads)
    return {name for name, sha256 in zip(names, hashes, strict=True) if finished[name] == sha256}


def _sha256(writer: GGUFWriter | ShardedGGUFWriter, name: str) -> str:
    """Of a tensor's bytes in the file; "" for a tensor that is not in it."""
    if name not in writer.tensors:
        return ""
    digest = hashlib.sha256()
    for piece in writer.read_tensor(name):
        digest.update(piece)
    return digest.hexdigest()


def check_formats(plan: Plan) -> None:
    """Raise UsageError if a type cannot be read, cannot be written, or lacks the importance that it needs."""
    for tensor in plan.tensors:
        if not tensor.searches:
            continue
        block_format(tensor.source.type)
        target = block_format(tensor.type)
        if not target.can_quantize:
            raise UsageError(f"{tensor.name}: {tensor.type} can be read here, but not written")
        if target.importance == "required" and not (tensor.importance or tensor.calibrated):
            raise UsageError(f"{tensor.name}: {tensor.type} cannot be computed without importance; choose another type")


def slabs(plan: Plan, imatrix: Imatrix | None, n_values: int | None = None) -> Iterator[Slab]:
    """All slabs in file order, of about `n_values` values.

    None crosses from one matrix (expert) to the next: each has its own importance.
    """
    for tensor in plan.tensors:
        ne = tensor.source.ne
        matrix_rows = ne[1] if len(ne) > 1 else 1
        step = rows_per_slab(ne[0], lcm(tensor.type.rows_interleaved, tensor.source.type.rows_interleaved), n_values)
        importance = importance_of(tensor, imatrix)
        for matrix_start in range(0, tensor.source.n_rows, matrix_rows):
            columns = importance[matrix_start // matrix_rows] if importance is not None else None
            for row in range(matrix_start, matrix_start + matrix_rows, step):
                yield Slab(tensor, row, min(step, matrix_start + matrix_rows - row), columns)


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
        target = block_format(tensor.type)
        target.quantize(rows, slab.importance, target.search_for(search, slab.importance), out)
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

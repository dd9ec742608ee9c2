"""How many rows are worked on at a time, so that a run stays within a bound of memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..container import GGUFFile, ShardedGGUF
from ..errors import UsageError
from ..formats import SLAB_VALUES
from .plan import Plan

if TYPE_CHECKING:
    from .run import Slab

PROGRAM_BYTES = 384 << 20  # Python, numpy, numba and what it compiles: 200 to 330 MB have been seen
BYTES_PER_VALUE = 64  # of a slab: weights, bytes, what is read back of them, errors in float64, and room for a search
IMPORTANCE_BYTES = 48  # per channel of all matrices of a tensor, while its importance is being made
READ_AHEAD = 64 << 20  # bytes of the source that the system is asked for before they are needed; they are its own


def fitting(plan: Plan, memory: int | None, threads: int) -> tuple[int, int]:
    """(values per slab, threads) with which a run takes at most `memory` bytes, mapped files aside.

    Raises UsageError if one thread with the smallest slab would take more.
    """
    if memory is None:
        return SLAB_VALUES, threads
    left = memory - PROGRAM_BYTES - max((_importance_bytes(tensor) for tensor in plan.tensors), default=0)
    smallest = max((_smallest_slab(tensor) for tensor in plan.tensors), default=1)
    if left < smallest * BYTES_PER_VALUE:
        needed = memory - left + smallest * BYTES_PER_VALUE
        raise UsageError(f"--memory: {memory:,} bytes are too few for this model; give at least {needed >> 20}M")
    threads = min(threads, left // (smallest * BYTES_PER_VALUE))
    return min(SLAB_VALUES, left // (threads * BYTES_PER_VALUE)), threads


def _importance_bytes(tensor) -> int:
    source = tensor.source
    return IMPORTANCE_BYTES * source.n_values // source.ne[1] if tensor.importance and len(source.ne) > 1 else 0


def _smallest_slab(tensor) -> int:
    return tensor.source.n_cols * max(tensor.type.rows_interleaved, tensor.source.type.rows_interleaved)


def reading_ahead(slabs: "Iterable[Slab]", source: GGUFFile | ShardedGGUF) -> "Iterator[Slab]":
    """The same slabs; the system is asked for the rows of those that come next, and reads while others are computed."""
    waiting: deque[Slab] = deque()
    n_bytes = 0
    for slab in slabs:
        tensor = slab.tensor.source
        source.will_need(tensor.name, slab.first_row, slab.n_rows)
        waiting.append(slab)
        n_bytes += slab.n_rows * tensor.row_bytes
        while n_bytes > READ_AHEAD:
            first = waiting.popleft()
            n_bytes -= first.n_rows * first.tensor.source.row_bytes
            yield first
    yield from waiting

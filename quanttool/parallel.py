"""Rows in a pool of threads: kernels release the GIL, so threads are all the parallelism that is needed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_wanted: int | None = None


def use_threads(threads: int | None) -> None:
    """Make `threads` the default of this process; None: all processors.

    numpy's matrix products follow only if numpy was not imported before: OpenBLAS reads its setting once.
    """
    global _wanted
    _wanted = threads
    if threads:
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)


def default_threads() -> int:
    """What `use_threads` asked for, or else the processors that this process may use."""
    if _wanted:
        return _wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_each_slab(work: Callable[[slice], None], n_rows: int, rows_per_slab: int, threads: int | None = None) -> None:
    """Call `work(slice)` for consecutive slabs of rows, in `threads` threads; the first error is raised.

    Slabs must not depend on each other: any order and any number of threads gives the same result.
    """
    slabs = [slice(start, min(start + rows_per_slab, n_rows)) for start in range(0, n_rows, rows_per_slab)]
    threads = min(threads or default_threads(), len(slabs))
    if threads <= 1:
        for slab in slabs:
            work(slab)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work, slab) for slab in slabs]:
            future.result()

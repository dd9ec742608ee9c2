"""Rows in a pool of threads: kernels release the GIL, so threads are all the parallelism that is needed."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event, Lock, local
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_wanted: int | None = None
_here = local()  # .share: how many threads work that runs in this thread may use in its turn


def use_threads(threads: int | None) -> None:
    """Make `threads` the default of this process; None: all processors."""
    global _wanted
    _wanted = threads


def default_threads() -> int:
    """What `use_threads` asked for, or else the processors that this process may use; inside of work, its share."""
    if share := getattr(_here, "share", None):
        return share
    if _wanted:
        return _wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_each_slab(work: Callable[[slice], None], n_rows: int, rows_per_slab: int, threads: int | None = None) -> None:
    """Call `work(slice)` for consecutive slabs of rows, in `threads` threads; the first error is raised.

    Slabs must not depend on each other: any order and any number of threads gives the same result.
    """
    slabs = [slice(start, min(start + rows_per_slab, n_rows)) for start in range(0, n_rows, rows_per_slab)]
    for_each(work, slabs, min(threads or default_threads(), max(1, len(slabs))))


def for_each(work: Callable[[Item], None], items: Iterable[Item], threads: int | None = None) -> None:
    """Call `work(item)` in `threads` threads. Items are taken as threads become free, so a generator may be endless.

    The first error (of `work` or of the iterator) stops all threads after the item they are at, and is raised.
    """
    threads = threads or default_threads()
    if threads == 1:
        for item in items:
            work(item)
        return
    iterator, lock, stopped = iter(items), Lock(), Event()
    end = object()

    def take_and_work() -> None:
        while not stopped.is_set():
            with lock:
                item = next(iterator, end)
            if item is end:
                return
            work(item)

    with _pool(threads, threads) as pool:
        try:
            for future in as_completed([pool.submit(take_and_work) for _ in range(threads)]):
                future.result()
        finally:  # Ctrl-C arrives here too
            stopped.set()


def in_order(work: Callable[[Item], Result], items: Sequence[Item], threads: int | None = None) -> Iterator[Result]:
    """Results of `work(item)`, computed in `threads` threads, in the order of the items; the first error is raised.

    At most one item more than there are threads is under way or waits to be fetched, so memory stays bounded. Fewer
    items than threads share them: `default_threads()` tells each its part.
    """
    total = threads or default_threads()
    threads = min(total, len(items))
    if threads <= 1:
        yield from map(work, items)
        return
    pool = _pool(threads, total)
    waiting: deque = deque()
    try:
        for item in items:
            if len(waiting) > threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(threads: int, total: int) -> ThreadPoolExecutor:
    """A pool whose work knows that it shares `total` threads with the others."""
    return ThreadPoolExecutor(threads, initializer=lambda: setattr(_here, "share", max(1, total // threads)))

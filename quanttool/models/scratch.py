"""Room for the hidden states of a text: in memory, or past a limit in a file without a name.

A file without a name needs no cleaning up: it is gone when the process ends, however it ends.
"""

import errno
import mmap
import os
import tempfile
from contextlib import suppress
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..errors import QuanttoolError
from .memory import free_memory

MEMORY_SHARE = 0.5  # of what is free, that hidden states may take if nobody says how much


def default_memory() -> int:
    """Bytes of hidden states that are kept in memory if nobody says how many."""
    return int(MEMORY_SHARE * free_memory())


def room(*shape: int, memory: int | None = None) -> NDArray[np.float32]:
    """An array for hidden states, f32 of `shape`, not initialized; past `memory` bytes a file in $TMPDIR backs it.

    Raises QuanttoolError if the disk has no room for it.
    """
    n_bytes = 4 * prod(shape)
    if n_bytes <= (default_memory() if memory is None else memory):
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        try:
            _reserve(file.fileno(), n_bytes)
        except OSError as error:
            raise QuanttoolError(
                f"the hidden states of this text take {n_bytes / 1e9:.1f} GB, and {tempfile.gettempdir()} has no room "
                f"for them ({error.strerror}); set TMPDIR to a folder with more, or use fewer chunks"
            ) from error
        return np.frombuffer(mmap.mmap(file.fileno(), n_bytes), np.float32).reshape(shape)


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Claim the space now: a disk that fills up later would end the process without a word."""
    with suppress(AttributeError):  # not on every platform
        try:
            os.posix_fallocate(descriptor, 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
                raise
    os.ftruncate(descriptor, n_bytes)

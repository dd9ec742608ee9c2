"""Room for the hidden states of a text: in memory, or past a limit in a file without a name.

A file without a name needs no cleaning up: it is gone when the process ends, however it ends.
"""

import errno
import mmap
import os
import tempfile
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import QuanttoolError

MEMORY_SHARE = 0.25  # of the machine's memory, that hidden states may take


def memory_limit() -> int:
    """Bytes of hidden states that are kept in memory."""
    limits = [1 << 40]
    with suppress(AttributeError, ValueError, OSError):  # not on every platform
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):  # in a container; "max" where there is no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(MEMORY_SHARE * min(limits))


def room(*shape: int) -> NDArray[np.float32]:
    """An array for hidden states, f32 of `shape`, not initialized; past `memory_limit` a file in $TMPDIR backs it.

    Raises QuanttoolError if the disk has no room for it.
    """
    n_bytes = 4 * prod(shape)
    if n_bytes <= memory_limit():
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

"""Output files appear whole or not at all."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import QuanttoolError, UsageError


def part_path(path: str | os.PathLike) -> Path:
    """Where an output is written until it is whole: beside the file that `path` leads to."""
    target = Path(os.path.realpath(path))
    return target.with_name(target.name + ".part")


@contextmanager
def atomic_output(path: str | os.PathLike, resumable: bool = False) -> Iterator[BinaryIO]:
    """Open `<path>.part` for writing; on success flush it to disk and rename it to `path`, otherwise remove it.

    resumable:  go on with a part that is there, readable too, and leave it there on Ctrl-C

    Operating system errors (disk full, no permission, no such folder) become a QuanttoolError that names the file.
    """
    path = Path(path)
    part = part_path(path)
    _check_kind(path)
    try:
        with part.open("r+b" if resumable and part.exists() else "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, os.path.realpath(path))  # a link stays a link
    except BaseException as error:  # Ctrl-C too: no half file stays behind
        if not (resumable and isinstance(error, KeyboardInterrupt)):
            with suppress(OSError):
                part.unlink()
        if isinstance(error, OSError):
            raise _explained(error, path) from error
        raise


def _check_kind(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a file")
    if path.exists() and not path.is_file():  # renaming would replace a device or a pipe by a file
        raise UsageError(f"{path}: is a device or a pipe; give the name of a file")


def _explained(error: OSError, path: Path) -> QuanttoolError:
    if error.errno == errno.ENOSPC:
        return QuanttoolError(
            f"{path}: the disk is full; free some space or choose another folder. Nothing was written"
        )
    if error.errno == errno.ENOENT:
        return UsageError(f"{path}: the folder {path.parent} does not exist")
    return QuanttoolError(f"{path}: cannot be written: {error.strerror or error}")


def check_output(path: str | os.PathLike, inputs: Iterable[str | os.PathLike] = ()) -> None:
    """Refuse, before any work is done, an output that cannot be written or that is also an input."""
    path = Path(path)
    _check_kind(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    for written in (path, part_path(path)):
        for name in inputs:
            if written.exists() and Path(name).exists() and written.samefile(name):
                raise UsageError(f"{path}: is an input as well; choose another name for the output")

"""Write a GGUF file: header first, since all sizes are known, then tensor bytes in any order."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import QuanttoolError
from ..files import atomic_output
from .layout import DEFAULT_ALIGNMENT, MAGIC, NUMPY_TYPES, VERSION, GGUFValueType, TensorInfo, aligned
from .reader import Metadata

READ_BYTES = 1 << 22  # what is read back at a time


def encode_string(text: str) -> bytes:
    raw = text.encode(errors="surrogateescape")
    return len(raw).to_bytes(8, "little") + raw


def encode_value(value: Any, kind: GGUFValueType, element: GGUFValueType | None = None) -> bytes:
    """Bytes of one metadata value; `element` is the element type of an ARRAY."""
    if kind == GGUFValueType.STRING:
        return encode_string(value)
    if kind == GGUFValueType.ARRAY:
        head = int(element).to_bytes(4, "little") + len(value).to_bytes(8, "little")
        return head + b"".join(encode_value(item, element) for item in value)
    return np.asarray(value, NUMPY_TYPES[kind]).tobytes()


class GGUFWriter:
    """Writes one GGUF file. Use as a context manager; the file appears under its name only if the block succeeds.

    metadata:   key -> (value type, encoded bytes), written in this order; `Metadata.raw` and `encode_value` give these
    tensors:    name, type and shape of every tensor in file order (their offsets are assigned here)
    resumable:  go on with the unfinished file of an earlier run, and leave one behind on Ctrl-C
    """

    def __init__(
        self,
        path: str | os.PathLike,
        metadata: Mapping[str, tuple[GGUFValueType, bytes]],
        tensors: Iterable[TensorInfo],
        alignment: int = DEFAULT_ALIGNMENT,
        resumable: bool = False,
    ):
        self.path, self.resumable = path, resumable
        self.tensors: dict[str, TensorInfo] = {}
        offset = 0
        for tensor in tensors:
            self.tensors[tensor.name] = TensorInfo(tensor.name, tensor.type, tensor.ne, offset)
            offset += aligned(tensor.n_bytes, alignment)
        header = self._header(metadata)
        self.header_bytes = header + bytes(aligned(len(header), alignment) - len(header))
        self.data_start = len(self.header_bytes)
        self.n_bytes = self.data_start + offset
        self._stack = ExitStack()

    def _header(self, metadata: Mapping[str, tuple[GGUFValueType, bytes]]) -> bytes:
        parts = [MAGIC, VERSION.to_bytes(4, "little")]
        parts += [len(self.tensors).to_bytes(8, "little"), len(metadata).to_bytes(8, "little")]
        for key, (kind, raw) in metadata.items():
            parts += [encode_string(key), int(kind).to_bytes(4, "little"), raw]
        for tensor in self.tensors.values():
            parts += [encode_string(tensor.name), len(tensor.ne).to_bytes(4, "little")]
            parts += [n.to_bytes(8, "little") for n in tensor.ne]
            parts += [tensor.type.id.to_bytes(4, "little"), tensor.offset.to_bytes(8, "little")]
        return b"".join(parts)

    def __enter__(self) -> "GGUFWriter":
        file = self._stack.enter_context(atomic_output(self.path, self.resumable))
        self._fd = file.fileno()
        try:
            self._reserve()
            self.write_at(0, self.header_bytes)
        except BaseException as error:
            if not self._stack.__exit__(type(error), error, error.__traceback__):
                raise
        return self

    def __exit__(self, *exception) -> bool | None:
        return self._stack.__exit__(*exception)

    def _reserve(self) -> None:
        """Claim the whole size now, so that a full disk shows before the work and not after it."""
        with suppress(AttributeError):  # not on every platform
            try:
                os.posix_fallocate(self._fd, 0, self.n_bytes)
            except OSError as error:
                if error.errno not in (95, 22):  # EOPNOTSUPP, EINVAL: a file system that cannot
                    raise
        os.ftruncate(self._fd, self.n_bytes)

    @property
    def paths(self) -> list[Path]:
        """Files that will be written: this one."""
        return [Path(self.path)]

    def sync(self) -> None:
        """Have everything written so far on the disk."""
        os.fsync(self._fd)

    def write_at(self, position: int, data: "bytes | np.ndarray") -> None:
        view = memoryview(data).cast("B")
        while len(view):
            written = os.pwrite(self._fd, view, position)
            view, position = view[written:], position + written

    def write_rows(self, name: str, first_row: int, data: np.ndarray) -> None:
        """Write u8 [n_rows, row_bytes] as rows `first_row`... of a tensor. Safe from several threads."""
        tensor = self.tensors[name]
        start = first_row * tensor.row_bytes
        if start + data.nbytes > tensor.n_bytes:
            raise QuanttoolError(f"{name}: {data.nbytes} bytes at row {first_row} do not fit into {tensor.n_bytes}")
        self.write_at(self.data_start + tensor.offset + start, np.ascontiguousarray(data))

    def read_rows(self, name: str, first_row: int, n_rows: int) -> np.ndarray:
        """Rows of a tensor as they are in the file now, u8 [n_rows, row_bytes]."""
        tensor = self.tensors[name]
        start = self.data_start + tensor.offset + first_row * tensor.row_bytes
        data = os.pread(self._fd, n_rows * tensor.row_bytes, start)
        return np.frombuffer(data, np.uint8).reshape(n_rows, tensor.row_bytes)

    def read_tensor(self, name: str) -> Iterator[bytes]:
        """Bytes of a tensor as they are in the file now, in pieces."""
        tensor = self.tensors[name]
        start = self.data_start + tensor.offset
        for position in range(start, start + tensor.n_bytes, READ_BYTES):
            yield os.pread(self._fd, min(READ_BYTES, start + tensor.n_bytes - position), position)

    def start_writing(self, name: str) -> None:
        """Have the system bring a tensor to the disk now, while others are computed, rather than all at the end."""
        tensor = self.tensors[name]
        if hasattr(os, "posix_fadvise"):  # not on every platform
            start = self.data_start + tensor.offset
            os.posix_fadvise(self._fd, start, tensor.n_bytes, os.POSIX_FADV_DONTNEED)


def copied(metadata: Metadata) -> dict[str, tuple[GGUFValueType, bytes]]:
    """A file's metadata in the form that the writer takes, to be changed and written again."""
    return {key: metadata.raw(key) for key in metadata}

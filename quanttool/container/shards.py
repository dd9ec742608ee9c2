"""A model in several files, read or written: `<prefix>-00001-of-00003.gguf` and so on, as llama.cpp's gguf-split does.

Every file has the keys split.no (from 0), split.count and split.tensors.count (of all files together); the first one
has the model's metadata besides. Source: llama.cpp tools/gguf-split and src/llama-model-loader.cpp.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UsageError
from .layout import DEFAULT_ALIGNMENT, GGUFValueType, TensorInfo
from .reader import GGUFFile
from .writer import GGUFWriter, encode_value

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
SPLIT_KEYS = {
    "split.no": GGUFValueType.UINT16,
    "split.count": GGUFValueType.UINT16,
    "split.tensors.count": GGUFValueType.INT32,
}
MAX_SHARDS = 65535  # split.count has 16 bits


def open_gguf(path: str | os.PathLike, header_only: bool = False) -> "GGUFFile | ShardedGGUF":
    """Open a model by its only file or by any of its shards. Raises as GGUFFile does."""
    file = GGUFFile(path, header_only)
    n_shards = file.metadata.get("split.count", 0)
    if not isinstance(n_shards, int) or n_shards < 2:
        return file
    return ShardedGGUF(_shard_paths(file.path, n_shards), header_only)


def _shard_paths(path: Path, n_shards: int) -> list[Path]:
    match = _NAME.fullmatch(path.name)
    if not match or int(match[3]) != n_shards:
        raise UsageError(
            f"{path}: is one of {n_shards} files of a model; give them their names back, as in "
            f"{path.stem}-00001-of-{n_shards:05d}.gguf, to find the others"
        )
    paths = [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.gguf") for number in range(1, n_shards + 1)]
    missing = [other for other in paths if not other.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file; {len(missing)} of the model's {n_shards} files are missing")
    return paths


def shard_paths(path: str | os.PathLike, n_shards: int) -> list[Path]:
    """Names of the files of a model that is to be called `path`: its ending, or its own shard number, gives way."""
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    prefix = match[1] if match else path.name.removesuffix(".gguf")
    return [path.with_name(f"{prefix}-{number:05d}-of-{n_shards:05d}.gguf") for number in range(1, n_shards + 1)]


class ShardedGGUF:
    """Several files that read as one `GGUFFile`; a tensor's offset counts in its own file."""

    def __init__(self, paths: list[Path], header_only: bool = False):
        self.path = paths[0]
        self.files = [GGUFFile(path, header_only) for path in paths]
        self.metadata = self.files[0].metadata
        self.alignment = self.files[0].alignment
        self.tensors: dict[str, TensorInfo] = {}
        self._file_of: dict[str, GGUFFile] = {}
        for number, file in enumerate(self.files):
            if file.metadata.get("split.no") != number or file.metadata.get("split.count") != len(paths):
                raise FileFormatError(f"{file.path}: does not say that it is file {number + 1} of {len(paths)}")
            for name, tensor in file.tensors.items():
                if name in self.tensors:
                    raise FileFormatError(f"{file.path}: tensor {name} is in {self._file_of[name].path.name}, too")
                self.tensors[name], self._file_of[name] = tensor, file
        expected = self.metadata.get("split.tensors.count")
        if expected != len(self.tensors):
            raise FileFormatError(f"{self.path}: the files hold {len(self.tensors)} tensors, expected {expected}")

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def has_data(self) -> bool:
        return all(file.has_data for file in self.files)

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(file.n_bytes for file in self.files)

    def data(self, name: str) -> NDArray[np.uint8]:
        """Bytes of a tensor, u8 [n_rows, row_bytes]; see `GGUFFile.data`."""
        return self._file_of[name].data(name)

    def head(self, name: str, n_bytes: int) -> bytes:
        """See `GGUFFile.head`."""
        return self._file_of[name].head(name, n_bytes)

    def will_need(self, name: str, first_row: int = 0, n_rows: int | None = None) -> None:
        """See `GGUFFile.will_need`."""
        self._file_of[name].will_need(name, first_row, n_rows)

    def release(self, name: str, first_row: int, n_rows: int) -> None:
        """See `GGUFFile.release`."""
        self._file_of[name].release(name, first_row, n_rows)


class ShardedGGUFWriter:
    """Several files that write as one `GGUFWriter`: all of them appear, or none.

    path:      name of the model, see `shard_paths`
    metadata:  of the model; the first file gets it
    shards:    tensors of each file, in file order; a file may have none
    """

    def __init__(
        self,
        path: str | os.PathLike,
        metadata: Mapping[str, tuple[GGUFValueType, bytes]],
        shards: Sequence[Sequence[TensorInfo]],
        alignment: int = DEFAULT_ALIGNMENT,
        resumable: bool = False,
    ):
        if len(shards) > MAX_SHARDS:
            raise UsageError(f"{path}: {len(shards)} files are more than the {MAX_SHARDS} that can be counted")
        counts = {"split.count": len(shards), "split.tensors.count": sum(map(len, shards))}
        self.files = []
        for number, (name, tensors) in enumerate(zip(shard_paths(path, len(shards)), shards, strict=True)):
            values = {"split.no": number} | counts
            keys = {key: (kind, encode_value(values[key], kind)) for key, kind in SPLIT_KEYS.items()}
            first = number == 0  # the others do not say how they are aligned
            self.files.append(
                GGUFWriter(
                    name,
                    {**metadata, **keys} if first else keys,
                    tensors,
                    alignment if first else DEFAULT_ALIGNMENT,
                    resumable,
                )
            )
        self.tensors = {name: tensor for file in self.files for name, tensor in file.tensors.items()}
        self._file_of = {name: file for file in self.files for name in file.tensors}
        self._stack = ExitStack()

    @property
    def paths(self) -> list[Path]:
        return [path for file in self.files for path in file.paths]

    @property
    def header_bytes(self) -> bytes:
        return b"".join(file.header_bytes for file in self.files)

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(file.n_bytes for file in self.files)

    def __enter__(self) -> "ShardedGGUFWriter":
        with ExitStack() as stack:
            for file in self.files:  # left in reverse: the first file, by which a model is opened, appears last
                stack.enter_context(file)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback) -> bool | None:
        if error is None:
            try:
                self.sync()  # a disk that fails does so before the first file has its name
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        return self._stack.__exit__(kind, error, traceback)

    def sync(self) -> None:
        """See `GGUFWriter.sync`."""
        for file in self.files:
            file.sync()

    def write_rows(self, name: str, first_row: int, data: NDArray[np.uint8]) -> None:
        """See `GGUFWriter.write_rows`."""
        self._file_of[name].write_rows(name, first_row, data)

    def read_rows(self, name: str, first_row: int, n_rows: int) -> NDArray[np.uint8]:
        """See `GGUFWriter.read_rows`."""
        return self._file_of[name].read_rows(name, first_row, n_rows)

    def read_tensor(self, name: str) -> Iterator[bytes]:
        """See `GGUFWriter.read_tensor`."""
        return self._file_of[name].read_tensor(name)

    def start_writing(self, name: str) -> None:
        """See `GGUFWriter.start_writing`."""
        self._file_of[name].start_writing(name)

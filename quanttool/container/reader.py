"""Read a GGUF file through a memory map. No count, length or offset in it is trusted before it is checked."""

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UsageError
from ..ggml_types import BY_ID
from .layout import DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, NUMPY_TYPES, GGUFValueType, TensorInfo, aligned
from .retired import explained

# A value is at least one byte, a key-value pair at least 13, a tensor entry at least 33: counts beyond are hostile.
_MIN_KV_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_MAX_ARRAY_DEPTH = 2

# Bytes that a system is asked to read at a time: Linux cuts longer requests off at its read-ahead, by default this much
# (mm/readahead.c force_page_cache_ra).
_READ_AT_ONCE = 128 << 10


class _Cursor:
    """Walks the header; every step checks that the bytes are there."""

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: byte {self.at}: {what}")

    def take(self, n_bytes: int, what: str) -> bytes:
        end = self.at + n_bytes
        if end > len(self.data):
            raise self.fail(
                f"{what} needs {n_bytes} bytes, the file has {len(self.data) - self.at} left: "
                "it is truncated or damaged; fetch it again"
            )
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def integer(self, n_bytes: int, what: str) -> int:
        return int.from_bytes(self.take(n_bytes, what), "little")

    def string(self, what: str) -> str:
        raw = self.take(self.integer(8, f"length of {what}"), what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8: {raw[:40]!r}") from None

    def value_type(self, what: str) -> GGUFValueType:
        number = self.integer(4, what)
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.fail(f"{what} is {number}, known are 0 to 12") from None

    def skip_value(self, kind: GGUFValueType, what: str, depth: int = 0) -> None:
        """Step over one value, checking that all of it lies inside the file."""
        if kind == GGUFValueType.STRING:
            self.take(self.integer(8, f"length of {what}"), what)
        elif kind == GGUFValueType.ARRAY:
            if depth >= _MAX_ARRAY_DEPTH:
                raise self.fail(f"{what} nests arrays more than {_MAX_ARRAY_DEPTH} deep")
            element = self.value_type(f"element type of {what}")
            count = self.integer(8, f"element count of {what}")
            if element in NUMPY_TYPES:
                self.take(count * NUMPY_TYPES[element].itemsize, what)
            elif count > (len(self.data) - self.at) // 8:
                raise self.fail(f"{what} claims {count} elements, the file is too short for them")
            elif element == GGUFValueType.STRING:
                self._skip_strings(count, what)
            else:
                for _ in range(count):
                    self.skip_value(element, what, depth + 1)
        else:
            self.take(NUMPY_TYPES[kind].itemsize, what)

    def _skip_strings(self, count: int, what: str) -> None:
        # The hot loop of opening a file: a vocabulary is hundreds of thousands of strings.
        data, at, size = self.data, self.at, len(self.data)
        for _ in range(count):
            at += 8 + int.from_bytes(data[at : at + 8], "little")
            if at > size:
                raise self.fail(f"{what} runs past the end of the file: it is truncated or damaged; fetch it again")
        self.at = at


def _decode(raw: bytes, kind: GGUFValueType) -> tuple[Any, int]:
    """(value, bytes used) of a value that `skip_value` has checked. Number arrays come as numpy arrays."""
    if kind in NUMPY_TYPES:
        dtype = NUMPY_TYPES[kind]
        return np.frombuffer(raw, dtype, 1)[0].item(), dtype.itemsize
    if kind == GGUFValueType.STRING:
        end = 8 + int.from_bytes(raw[:8], "little")
        return raw[8:end].decode(errors="surrogateescape"), end
    element = GGUFValueType(int.from_bytes(raw[:4], "little"))
    count = int.from_bytes(raw[4:12], "little")
    if element in NUMPY_TYPES:
        values = np.frombuffer(raw, NUMPY_TYPES[element], count, offset=12)
        return values, 12 + values.nbytes
    values, at = [], 12
    view = memoryview(raw)
    if element == GGUFValueType.STRING:
        for _ in range(count):
            start = at + 8
            at = start + int.from_bytes(view[at:start], "little")
            values.append(raw[start:at].decode(errors="surrogateescape"))
    else:
        for _ in range(count):
            value, used = _decode(raw[at:], element)
            values.append(value)
            at += used
    return values, at


class Metadata(Mapping[str, Any]):
    """The key-value pairs, in file order. Values are decoded when asked for; `raw` gives type and bytes for copying."""

    def __init__(self, spans: dict[str, tuple[GGUFValueType, bytes]]):
        self._spans = spans
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            kind, raw = self._spans[key]
            self._values[key] = _decode(raw, kind)[0]
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def raw(self, key: str) -> tuple[GGUFValueType, bytes]:
        """Value type and encoded bytes of a key, as they stand in the file."""
        return self._spans[key]


class GGUFFile:
    """One GGUF file, mapped read-only.

    metadata:     Mapping from key to value
    tensors:      dict name -> TensorInfo, in file order
    header_only:  accept a file that ends before its tensor data, as downloaded to plan with; `data` then raises

    Raises FileFormatError if the file is not GGUF, truncated or inconsistent; UsageError if it is not there.
    """

    def __init__(self, path: str | os.PathLike, header_only: bool = False):
        self.path = Path(path)
        if not self.path.is_file():
            raise UsageError(f"{self.path}: {'is a folder; give a file' if self.path.is_dir() else 'no such file'}")
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
                raise FileFormatError(f"{self.path}: not a GGUF file (it does not start with {MAGIC.decode()!r})")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._map, self.path)
        cursor.at = len(MAGIC)
        self.version = cursor.integer(4, "version")
        if self.version not in (2, 3):
            swapped = int.from_bytes(self.version.to_bytes(4, "little"), "big")
            hint = "the file is big-endian" if swapped in (1, 2, 3) else "convert it anew with a current program"
            raise cursor.fail(f"GGUF version {self.version} is not supported (2 and 3 are); {hint}")
        n_tensors = cursor.integer(8, "tensor count")
        n_kv = cursor.integer(8, "metadata count")
        if n_tensors * _MIN_TENSOR_BYTES + n_kv * _MIN_KV_BYTES > len(self._map):
            raise cursor.fail(f"{n_tensors} tensors and {n_kv} metadata entries do not fit into {len(self._map)} bytes")
        self.metadata = self._read_metadata(cursor, n_kv)
        self.alignment = self._alignment()
        self.tensors = self._read_tensors(cursor, n_tensors)
        self.data_start = aligned(cursor.at, self.alignment)
        self.has_data = not (header_only and self.tensors and len(self._map) <= self.data_start)
        self._check_extents(cursor)

    def _read_metadata(self, cursor: _Cursor, n_kv: int) -> Metadata:
        spans: dict[str, tuple[GGUFValueType, bytes]] = {}
        for index in range(n_kv):
            key = cursor.string(f"key of metadata entry {index}")
            kind = cursor.value_type(f"type of {key!r}")
            start = cursor.at
            cursor.skip_value(kind, f"value of {key!r}")
            if key in spans:
                raise cursor.fail(f"metadata key {key!r} appears twice")
            spans[key] = kind, self._map[start : cursor.at]
        return Metadata(spans)

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise FileFormatError(f"{self.path}: general.alignment is {alignment!r}, it must be a power of two")
        return alignment

    def _read_tensors(self, cursor: _Cursor, n_tensors: int) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        unknown: list[tuple[str, tuple[int, ...], int, int]] = []  # name, shape, type id, offset
        offsets: list[int] = []
        for index in range(n_tensors):
            name = cursor.string(f"name of tensor {index}")
            n_dims = cursor.integer(4, f"dimension count of {name}")
            if not 1 <= n_dims <= MAX_DIMS:
                raise cursor.fail(f"{name} has {n_dims} dimensions, expected 1 to {MAX_DIMS}")
            ne = tuple(cursor.integer(8, f"shape of {name}") for _ in range(n_dims))
            type_id = cursor.integer(4, f"type of {name}")
            offset = cursor.integer(8, f"offset of {name}")
            offsets.append(offset)
            if type_id not in BY_ID:
                unknown.append((name, ne, type_id, offset))
                continue
            kind = BY_ID[type_id]
            if min(ne) < 1 or ne[0] % kind.block_size:
                raise cursor.fail(f"{name} has shape {list(ne)}; {kind} needs rows of a multiple of {kind.block_size}")
            if kind.rows_interleaved > 1 and (len(ne) < 2 or ne[1] % kind.rows_interleaved):
                raise cursor.fail(f"{name} has shape {list(ne)}; {kind} weaves {kind.rows_interleaved} rows together")
            if offset % self.alignment:
                raise cursor.fail(f"{name} starts at {offset}, which is not a multiple of {self.alignment}")
            if name in tensors:
                raise cursor.fail(f"tensor {name} appears twice")
            tensors[name] = TensorInfo(name, kind, ne, offset)
        if unknown:
            raise cursor.fail(self._unknown_type(*unknown[0], offsets, cursor.at))
        return tensors

    def _unknown_type(
        self, name: str, ne: tuple[int, ...], type_id: int, offset: int, offsets: list[int], header_end: int
    ) -> str:
        end = max(0, len(self._map) - aligned(header_end, self.alignment))
        n_bytes = min((other for other in [*offsets, end] if other > offset), default=offset) - offset
        if words := explained(type_id, ne, n_bytes, self.alignment):
            return f"{name} {words}"
        return f"{name} has ggml type {type_id}, which neither llama.cpp nor ik_llama.cpp uses"

    def _check_extents(self, cursor: _Cursor) -> None:
        available = len(self._map) - self.data_start
        end = 0
        for tensor in sorted(self.tensors.values(), key=lambda t: t.offset):
            if tensor.offset < end:
                raise cursor.fail(f"{tensor.name} overlaps the tensor before it")
            end = tensor.offset + tensor.n_bytes
            if end > available and self.has_data:
                raise FileFormatError(
                    f"{self.path}: {tensor.name} ends at byte {self.data_start + end}, the file has {len(self._map)}: "
                    "it is truncated; fetch it again"
                )

    @property
    def paths(self) -> list[Path]:
        """Files that belong to the model: this one."""
        return [self.path]

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return len(self._map)

    def data(self, name: str) -> NDArray[np.uint8]:
        """Bytes of a tensor as u8 [n_rows, row_bytes]: a view of the mapped file, nothing is read yet."""
        if not self.has_data:
            raise FileFormatError(f"{self.path}: is a header only, without the data of {name}; fetch the whole file")
        tensor = self.tensors[name]
        flat = np.frombuffer(self._map, np.uint8, tensor.n_bytes, self.data_start + tensor.offset)
        return flat.reshape(tensor.n_rows, tensor.row_bytes)

    def head(self, name: str, n_bytes: int) -> bytes:
        """The first bytes of a tensor. What lies behind them is not read on the way, as it else would be."""
        first, start = self.data(name).reshape(-1)[:n_bytes], self.data_start + self.tensors[name].offset
        self._advise("MADV_RANDOM", start, n_bytes)
        try:
            return first.tobytes()
        finally:
            self._advise("MADV_NORMAL", start, n_bytes)

    def will_need(self, name: str, first_row: int = 0, n_rows: int | None = None) -> None:
        """Have the system read a tensor, or some rows of it, into its cache; waits only while its queue is full."""
        tensor = self.tensors[name]
        n_rows = tensor.n_rows - first_row if n_rows is None else n_rows
        start = self.data_start + tensor.offset + first_row * tensor.row_bytes
        end = start + n_rows * tensor.row_bytes
        if not hasattr(os, "posix_fadvise"):  # not on every platform
            self._advise("MADV_WILLNEED", start, end - start)
            return
        with self.path.open("rb") as file:
            for at in range(start, end, _READ_AT_ONCE):
                os.posix_fadvise(file.fileno(), at, min(_READ_AT_ONCE, end - at), os.POSIX_FADV_WILLNEED)

    def release(self, name: str, first_row: int, n_rows: int) -> None:
        """Let the system take back the memory of rows that were read; they are read anew when touched again."""
        tensor = self.tensors[name]
        start = self.data_start + tensor.offset + first_row * tensor.row_bytes
        self._advise("MADV_DONTNEED", start, n_rows * tensor.row_bytes)

    def _advise(self, advice: str, start: int, n_bytes: int) -> None:
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, advice):  # not on every platform
            self._map.madvise(getattr(mmap, advice), page, start + n_bytes - page)

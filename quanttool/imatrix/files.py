"""The two imatrix files of llama.cpp: GGUF, and the older `.dat` that ik_llama.cpp still reads.

GGUF: keys general.type = "imatrix", imatrix.datasets, .chunk_count, .chunk_size; per weight two F32 tensors,
    `<weight>.in_sum2` ne = [n_cols, n_matrices]   sums of squares
    `<weight>.counts`  ne = [1, n_matrices]        rows counted
sorted by weight name. Ours, behind them and ignored by llama.cpp: `<weight>.in_sum`, sums of the activations
themselves, and keys quanttool.imatrix.*, where the data comes from. Dat, all little-endian:
    i32 n_entries | per entry: i32 length + name | i32 ncall | i32 n_values | f32 values (mean square * ncall)
    | i32 chunk_count | i32 length + dataset        (this trailer may be missing)

Source: llama.cpp common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp (save_imatrix, save_imatrix_legacy).
"""

import mmap
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from ..container.layout import MAGIC
from ..container.writer import encode_value
from ..errors import FileFormatError, ImatrixError, UsageError
from ..files import atomic_output
from ..ggml_types import ggml_type
from .data import Entry, Imatrix, LazyEntries

SUMS_SUFFIX = ".in_sum2"
COUNTS_SUFFIX = ".counts"
SIGNED_SUFFIX = ".in_sum"
PROVENANCE_PREFIX = "quanttool.imatrix."
_MIN_DAT_ENTRY_BYTES = 4 + 1 + 4 + 4 + 4


def load(path: str | os.PathLike, in_memory: bool = True) -> Imatrix:
    """Read an imatrix of either format; which one it is shows in its first bytes.

    in_memory:  hold the entries; otherwise they stay in the file, and each is read when it is asked for

    Raises UsageError if the file is not there, FileFormatError if it is neither or damaged, ImatrixError if a number in
    it is impossible (NaN, infinite or negative).
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with path.open("rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC
    imatrix = _load_gguf(path) if is_gguf else _load_dat(path)
    kept = {}
    for name, entry in imatrix.entries.items():
        _check_sums(path, name, entry)
        if in_memory:
            kept[name] = entry
    if in_memory:
        imatrix.entries = kept
    return imatrix


def _check_sums(path: Path, name: str, entry: Entry) -> None:
    bad = ~(np.isfinite(entry.sums_of_squares) & (entry.sums_of_squares >= 0))
    if bad.any():
        matrix, column = np.argwhere(bad)[0]
        value = entry.sums_of_squares[matrix, column]
        raise ImatrixError(f"{path}: {name}: the sum of squares of channel {column} is {value}; make the imatrix anew")


def save(imatrix: Imatrix, path: str | os.PathLike, file_format: str = "gguf") -> None:
    """Write an imatrix as "gguf" or "dat". The same data gives the same bytes; the file appears whole or not at all."""
    writers = {"gguf": _save_gguf, "dat": _save_dat}
    if file_format not in writers:
        raise UsageError(f"unknown imatrix format {file_format!r}; known are gguf and dat")
    if not imatrix.entries:
        raise ImatrixError(f"{path}: there is no importance data to write")
    writers[file_format](imatrix, path)


def _sorted_entries(imatrix: Imatrix) -> Iterator[tuple[str, Entry]]:
    """Entries in the order of the names' bytes, which is how C++ sorts strings."""
    for name in sorted(imatrix.entries, key=lambda name: name.encode(errors="surrogateescape")):
        yield name, imatrix.entries[name]


# --- GGUF -------------------------------------------------------------------------------------------------------------


def _load_gguf(path: Path) -> Imatrix:
    file = GGUFFile(path)
    names = [name.removesuffix(SUMS_SUFFIX) for name in file.tensors if name.endswith(SUMS_SUFFIX)]
    if not names:
        kind = file.metadata.get("general.type", "model")
        raise FileFormatError(f"{path}: holds no importance data (its general.type is {kind!r}); give an imatrix file")
    orphans = {n.removesuffix(COUNTS_SUFFIX) for n in file.tensors if n.endswith(COUNTS_SUFFIX)} - set(names)
    if orphans:
        raise FileFormatError(f"{path}: {min(orphans)} has counts but no sums; the file is damaged, make it anew")
    imatrix = Imatrix(
        LazyEntries({name: partial(_gguf_entry, file, name) for name in names}),
        datasets=_datasets(file),
        chunk_count=_natural_number(file, "imatrix.chunk_count"),
        chunk_size=_natural_number(file, "imatrix.chunk_size"),
        provenance=_provenance(file),
    )
    if not imatrix.chunk_size:
        raise FileFormatError(f"{path}: imatrix.chunk_size is 0; make the file anew")
    return imatrix


def _datasets(file: GGUFFile) -> list[str]:
    datasets = file.metadata.get("imatrix.datasets")
    if not isinstance(datasets, list) or not all(isinstance(name, str) for name in datasets):
        raise FileFormatError(f"{file.path}: the key imatrix.datasets is missing or no list of texts; make it anew")
    return datasets


def _provenance(file: GGUFFile) -> dict[str, str]:
    ours = {key: file.metadata[key] for key in file.metadata if key.startswith(PROVENANCE_PREFIX)}
    return {key.removeprefix(PROVENANCE_PREFIX): str(value) for key, value in ours.items()}


def _natural_number(file: GGUFFile, key: str) -> int:
    value = file.metadata.get(key)
    if not isinstance(value, int) or value < 0:
        raise FileFormatError(f"{file.path}: the key {key} is {value!r}, expected a count; make the file anew")
    return value


def _gguf_entry(file: GGUFFile, name: str) -> Entry:
    sums, counts = _floats(file, name + SUMS_SUFFIX), _floats(file, name + COUNTS_SUFFIX)
    if not counts.size or sums.size % counts.size:
        raise FileFormatError(f"{file.path}: {name} has {sums.size} sums and {counts.size} counts; they do not divide")
    if not np.all((counts >= 0) & (counts < 2**62)):  # False for NaN too
        raise FileFormatError(f"{file.path}: {name} has an impossible count; make the file anew")
    sums = _as_float64(sums).reshape(counts.size, -1)
    entry = Entry(sums, np.floor(counts.astype(np.float64) + 0.5).astype(np.int64))  # rounded as lround does
    if name + SIGNED_SUFFIX in file.tensors:
        signed = _floats(file, name + SIGNED_SUFFIX)
        if signed.size != sums.size or not np.isfinite(signed).all():
            raise FileFormatError(f"{file.path}: {name + SIGNED_SUFFIX} does not fit {name}; make the file anew")
        entry.sums = signed.astype(np.float64).reshape(sums.shape)
    file.release(name + SUMS_SUFFIX, 0, file.tensors[name + SUMS_SUFFIX].n_rows)
    return entry


def _floats(file: GGUFFile, name: str) -> NDArray[np.float32]:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise FileFormatError(f"{file.path}: tensor {name} is missing; the file is damaged, make it anew")
    if tensor.type.name != "F32":
        raise FileFormatError(f"{file.path}: {name} is {tensor.type}, expected F32")
    return file.data(name).reshape(-1).view("<f4")


def _save_gguf(imatrix: Imatrix, path: str | os.PathLike) -> None:
    if not imatrix.chunk_size:
        raise ImatrixError(f"{path}: the data counts chunks of unknown size (a legacy file); say their size in tokens")
    string, u32, array = GGUFValueType.STRING, GGUFValueType.UINT32, GGUFValueType.ARRAY
    metadata = {
        "general.type": (string, encode_value("imatrix", string)),
        "imatrix.datasets": (array, encode_value(imatrix.datasets, array, string)),
        "imatrix.chunk_count": (u32, encode_value(imatrix.chunk_count, u32)),
        "imatrix.chunk_size": (u32, encode_value(imatrix.chunk_size, u32)),
    }
    for key, value in sorted(imatrix.provenance.items()):
        metadata[PROVENANCE_PREFIX + key] = string, encode_value(value, string)
    arrays: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {}
    for name, entry in _sorted_entries(imatrix):
        arrays[name + SUMS_SUFFIX] = entry.sums_of_squares
        arrays[name + COUNTS_SUFFIX] = entry.counts[:, None]
    for name, entry in _sorted_entries(imatrix):
        if entry.sums is not None:
            arrays[name + SIGNED_SUFFIX] = entry.sums
    f32 = ggml_type("F32")
    # a trailing dimension of one matrix is left out, as ggml does
    shapes = {name: array.shape[:0:-1] + array.shape[:1] * (len(array) > 1) for name, array in arrays.items()}
    with GGUFWriter(path, metadata, [TensorInfo(name, f32, ne) for name, ne in shapes.items()]) as writer:
        for name, array in arrays.items():
            writer.write_rows(name, 0, array.astype("<f4").view(np.uint8))


# --- legacy .dat ------------------------------------------------------------------------------------------------------


class _DatReader:
    def __init__(self, path: Path):
        self.path, self.at = path, 0
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: byte {self.at}: {what}; it is damaged, or no imatrix file at all")

    def skip(self, n_bytes: int, what: str) -> None:
        if not 0 <= n_bytes <= self.left:
            raise self.fail(f"{what} needs {n_bytes} bytes, the file has {self.left} left")
        self.at += n_bytes

    def take(self, n_bytes: int, what: str) -> bytes:
        self.skip(n_bytes, what)
        return self.data[self.at - n_bytes : self.at]

    def integer(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little", signed=True)

    def text(self, what: str) -> str:
        return self.take(self.integer(f"length of {what}"), what).decode(errors="surrogateescape")


def _load_dat(path: Path) -> Imatrix:
    reader = _DatReader(path)
    n_entries = reader.integer("number of entries")
    if not 1 <= n_entries <= reader.left // _MIN_DAT_ENTRY_BYTES:
        raise reader.fail(f"{n_entries} entries cannot be in a file of {len(reader.data)} bytes")
    makers: dict[str, partial[Entry]] = {}
    for index in range(n_entries):
        name = reader.text(f"name of entry {index}")
        ncall = reader.integer(f"ncall of {name}")
        n_values = reader.integer(f"number of values of {name}")
        if not name or n_values < 1 or name in makers:
            raise reader.fail(f"entry {index} ({name!r}) is empty or appears twice")
        # Readers take the values as they are where ncall is not positive: that is a count of one.
        makers[name] = partial(_dat_entry, reader.data, reader.at, n_values, max(ncall, 1))
        reader.skip(4 * n_values, f"values of {name}")
    imatrix = Imatrix(LazyEntries(makers))
    # llama.cpp sorts its entries since its counts are chunks; older files and ik_llama.cpp's keep a hash map's order.
    imatrix.calls_are_batches = list(imatrix.entries) != sorted(imatrix.entries)
    if reader.left:
        imatrix.chunk_count = reader.integer("number of chunks")
    if reader.left:
        dataset = reader.text("name of the dataset")
        imatrix.datasets = [dataset] if dataset else []
    return imatrix


def _dat_entry(data: "mmap.mmap | bytes", start: int, n_values: int, count: int) -> Entry:
    values = np.frombuffer(data, "<f4", n_values, start)
    return Entry(_as_float64(values)[None, :], np.array([count], np.int64))


def _as_float64(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values, of which some kinds of NaN would make numpy warn; `load` names them."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def _save_dat(imatrix: Imatrix, path: str | os.PathLike) -> None:
    stored = [(name, entry) for name, entry in _sorted_entries(imatrix) if entry.counts.any()]
    parts = [_i32(len(stored))]
    for name, entry in stored:
        ncall, values = _dat_values(entry, imatrix.chunk_size)
        parts += [_dat_text(name), _i32(ncall), _i32(values.size), values.astype("<f4").tobytes()]
    parts += [_i32(imatrix.chunk_count), _dat_text(imatrix.datasets[-1] if imatrix.datasets else "")]
    with atomic_output(path) as file:
        file.write(b"".join(parts))


def _dat_values(entry: Entry, chunk_size: int) -> tuple[int, NDArray[np.float32]]:
    """ncall and values of one entry. Experts without data get weight 1, since the format has one count for all."""
    if not chunk_size:  # legacy data, already in this form
        return int(entry.counts[0]), entry.sums_of_squares.astype(np.float32)
    ncall = -(-int(entry.counts.max()) // chunk_size)
    return ncall, entry.importance() * np.float32(ncall)


def _i32(number: int) -> bytes:
    return number.to_bytes(4, "little", signed=True)


def _dat_text(text: str) -> bytes:
    raw = text.encode(errors="surrogateescape")
    return _i32(len(raw)) + raw

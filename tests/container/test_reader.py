"""Files written by the `gguf` library, read by ours; and files that lie."""

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from quanttool.container import GGUFFile, GGUFWriter, TensorInfo
from quanttool.errors import FileFormatError, QuanttoolError, UsageError
from quanttool.ggml_types import BY_NAME

F32, Q8_0, U32, STRING, ARRAY = 0, 8, 4, 8, 9


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def kv(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, ne: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, kind, offset)


def gguf_bytes(kvs=(), tensors=(), data=b"", version=3, counts=None, magic=b"GGUF") -> bytes:
    n_tensors, n_kv = counts or (len(tensors), len(kvs))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_kv) + b"".join(kvs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


@pytest.fixture
def opened(tmp_path):
    def write_and_open(content: bytes, **options) -> GGUFFile:
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        return GGUFFile(path, **options)

    return write_and_open


@pytest.fixture(scope="module")
def library_file(tmp_path_factory):
    """Every metadata type and a few tensors, by the `gguf` library's writer."""
    path = tmp_path_factory.mktemp("gguf") / "library.gguf"
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 1 << 63)
    writer.add_int64("i64", -(1 << 62))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "größer als 1 € 🙂")
    writer.add_array("strings", ["a", "", "ö", "long " * 50])
    writer.add_array("numbers", [3, 1, 4, 1, 5])
    writer.add_array("floats", [0.5, -2.0])
    tensors = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal((2, 3, 4)).astype(np.float16),
        "vector": rng.standard_normal(7).astype(np.float32),
    }
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.add_tensor("q8_0", rng.integers(0, 256, (4, 68), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, tensors


def test_metadata_of_every_type(library_file):
    metadata = GGUFFile(library_file[0]).metadata
    assert metadata["u8"] == 200 and metadata["i8"] == -100 and metadata["u16"] == 60000 and metadata["i16"] == -30000
    assert metadata["u32"] == 4_000_000_000 and metadata["i32"] == -2_000_000_000
    assert metadata["u64"] == 1 << 63 and metadata["i64"] == -(1 << 62)
    assert metadata["f32"] == float(np.float32(0.1)) and metadata["f64"] == 0.1 and metadata["yes"] is True
    assert metadata["text"] == "größer als 1 € 🙂"
    assert metadata["strings"] == ["a", "", "ö", "long " * 50]
    assert list(metadata["numbers"]) == [3, 1, 4, 1, 5] and list(metadata["floats"]) == [0.5, -2.0]
    assert list(metadata)[:2] == ["general.architecture", "u8"]
    assert metadata.get("absent", 5) == 5


def test_tensors_as_the_library_wrote_them(library_file):
    path, tensors = library_file
    file = GGUFFile(path)
    assert list(file.tensors) == ["f32", "f16", "vector", "q8_0"]
    for name, values in tensors.items():
        info = file.tensors[name]
        assert info.shape == values.shape
        np.testing.assert_array_equal(file.data(name).view(values.dtype).reshape(values.shape), values)
    q8_0 = file.tensors["q8_0"]
    assert q8_0.type is BY_NAME["Q8_0"] and q8_0.ne == (64, 4) and q8_0.n_bytes == 4 * 68
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}["q8_0"]
    np.testing.assert_array_equal(file.data("q8_0").ravel(), theirs.data.ravel())


def test_data_is_not_writable(library_file):
    data = GGUFFile(library_file[0]).data("f32")
    with pytest.raises(ValueError):
        data[0, 0] = 1


def test_version_2_and_other_alignments(opened):
    values = np.arange(4, dtype=np.float32)
    tensors = [tensor(b"a", (4,), F32, 0), tensor(b"b", (4,), F32, 64)]
    kvs = [kv(b"general.alignment", U32, struct.pack("<I", 64))]
    head = gguf_bytes(kvs, tensors, version=2)
    file = opened(head + bytes(-len(head) % 64) + values.tobytes() + bytes(48) + values[::-1].tobytes())
    assert file.version == 2 and file.alignment == 64
    np.testing.assert_array_equal(file.data("b").view(np.float32), values[None, ::-1])


def test_a_header_without_data_only_where_allowed(opened):
    content = gguf_bytes(tensors=[tensor(b"a", (4,), F32, 0)])
    with pytest.raises(FileFormatError, match="truncated"):
        opened(content)
    file = opened(content, header_only=True)
    assert file.tensors["a"].n_bytes == 16 and not file.has_data
    with pytest.raises(FileFormatError, match="header only"):
        file.data("a")
    with pytest.raises(FileFormatError, match="truncated"):  # cut off within the data is damage, not a plan's input
        opened(content + bytes(8), header_only=True)
    assert opened(content + bytes(16), header_only=True).has_data


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        GGUFFile(tmp_path / "absent.gguf")
    with pytest.raises(UsageError, match="is a folder"):
        GGUFFile(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(FileFormatError, match="not a GGUF file"):
        GGUFFile(tmp_path / "empty.gguf")


HUGE = (1 << 64) - 1
HOSTILE = {
    "magic": (gguf_bytes(magic=b"GGML"), "not a GGUF file"),
    "only the magic": (b"GGUF", "version"),
    "version 1": (gguf_bytes(version=1), "version 1 is not supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "too many tensors": (gguf_bytes(counts=(HUGE, 0)), "do not fit"),
    "too many keys": (gguf_bytes(counts=(0, 1 << 40)), "do not fit"),
    "long key": (gguf_bytes([struct.pack("<Q", HUGE) + bytes(64)]), "truncated or damaged"),
    "key not UTF-8": (gguf_bytes([kv(b"\xff\xfe", U32, bytes(4))]), "UTF-8"),
    "value type": (gguf_bytes([kv(b"k", 13, bytes(8))]), "type of 'k' is 13"),
    "long string": (gguf_bytes([kv(b"k", STRING, struct.pack("<Q", HUGE))]), "truncated or damaged"),
    "long array": (gguf_bytes([kv(b"k", ARRAY, struct.pack("<IQ", U32, HUGE))]), "truncated or damaged"),
    "many strings": (gguf_bytes([kv(b"k", ARRAY, struct.pack("<IQ", STRING, 1 << 60))]), "too short"),
    "string runs out": (
        gguf_bytes([kv(b"k", ARRAY, struct.pack("<IQQ", STRING, 1, HUGE) + bytes(8))]),
        "runs past the end",
    ),
    "deep arrays": (
        gguf_bytes([kv(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5 + struct.pack("<IQ", U32, 0))]),
        "nests arrays",
    ),
    "key twice": (gguf_bytes([kv(b"k", U32, bytes(4))] * 2), "appears twice"),
    "alignment 0": (gguf_bytes([kv(b"general.alignment", U32, bytes(4))]), "power of two"),
    "alignment 48": (gguf_bytes([kv(b"general.alignment", U32, struct.pack("<I", 48))]), "power of two"),
    "alignment text": (gguf_bytes([kv(b"general.alignment", STRING, string(b"32"))]), "power of two"),
    "no dimensions": (gguf_bytes(tensors=[tensor(b"a", (), F32, 0)]), "0 dimensions"),
    "five dimensions": (gguf_bytes(tensors=[tensor(b"a", (1, 1, 1, 1, 1), F32, 0)]), "5 dimensions"),
    "zero width": (gguf_bytes(tensors=[tensor(b"a", (0, 4), F32, 0)]), "shape"),
    "unknown type": (gguf_bytes(tensors=[tensor(b"a", (32,), 4, 0)]), "ggml type 4"),
    "broken block": (gguf_bytes(tensors=[tensor(b"a", (31,), Q8_0, 0)], data=bytes(64)), "multiple of 32"),
    "broken group": (gguf_bytes(tensors=[tensor(b"a", (32, 6), 202, 0)], data=bytes(512)), "weaves 8 rows together"),
    "offset unaligned": (gguf_bytes(tensors=[tensor(b"a", (1,), F32, 4)], data=bytes(64)), "not a multiple of 32"),
    "offset beyond": (gguf_bytes(tensors=[tensor(b"a", (1,), F32, 1 << 60)], data=bytes(64)), "truncated"),
    "huge tensor": (gguf_bytes(tensors=[tensor(b"a", (HUGE, HUGE, HUGE, HUGE), F32, 0)], data=bytes(64)), "truncated"),
    "overlap": (
        gguf_bytes(tensors=[tensor(b"a", (16,), F32, 0), tensor(b"b", (1,), F32, 32)], data=bytes(128)),
        "overlaps",
    ),
    "name twice": (
        gguf_bytes(tensors=[tensor(b"a", (1,), F32, 0), tensor(b"a", (1,), F32, 32)], data=bytes(64)),
        "appears twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_lie_are_refused_in_one_line(opened, case):
    content, message = HOSTILE[case]
    with pytest.raises(QuanttoolError, match=message) as error:
        opened(content)
    assert type(error.value) is FileFormatError and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_metadata_that_is_not_utf8_is_kept_byte_for_byte(opened):
    raw = b"caf\xe9"
    file = opened(gguf_bytes([kv(b"general.name", STRING, string(raw))]))
    assert file.metadata["general.name"].encode(errors="surrogateescape") == raw
    assert file.metadata.raw("general.name")[1] == string(raw)


def contested(tmp_path, type_id: int, n_bytes: int):
    """A file whose first tensor, of 512 values, has an id that is not read and takes so many bytes."""
    infos = [TensorInfo("a.weight", BY_NAME["I8"], (n_bytes, 1)), TensorInfo("b", BY_NAME["F32"], (8,))]
    path = tmp_path / "contested.gguf"
    with GGUFWriter(path, {}, infos):
        pass
    data, shape = bytearray(path.read_bytes()), n_bytes.to_bytes(8, "little")
    at = data.index(shape)
    data[at : at + 8] = (512).to_bytes(8, "little")
    data[at + 16 : at + 20] = type_id.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("type_id", "n_bytes", "words"),
    [
        (36, 160, "is, by its 160 bytes, I2_S of ik_llama.cpp, .*convert it to IQ2_BN"),
        (36, 288, "is, by its 288 bytes, IQ4_NL_4_4, .*quantize the model again"),
        (36, 320, "is either IQ4_NL_4_4, .*; or I2_S"),
        (31, 288, "is Q4_0_4_4, which llama.cpp has given up"),
        (77, 288, "has ggml type 77, which neither llama.cpp nor ik_llama.cpp uses"),
    ],
)
def test_ids_that_two_programs_use_are_settled_by_size(tmp_path, type_id, n_bytes, words):
    with pytest.raises(FileFormatError, match=rf"a\.weight {words}"):
        GGUFFile(contested(tmp_path, type_id, n_bytes))


def bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not say what was read from the disk")
def test_only_what_is_asked_for_is_read_from_the_disk(tmp_path):
    """Tensors of 24 MiB: more than systems read ahead on their own."""
    path, n = tmp_path / "cold.gguf", 24 << 20
    tensors = [TensorInfo(name, BY_NAME["F32"], (n // 4096, 1024)) for name in "abcd"]
    with GGUFWriter(path, {}, tensors) as writer:
        for number, tensor in enumerate(tensors):
            writer.write_rows(tensor.name, 0, np.full((1024, n // 1024), number, np.uint8))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    model = GGUFFile(path)
    start = bytes_from_disk()
    assert model.data("a")[-1, -1] == 0
    if bytes_from_disk() == start:
        pytest.skip(f"{tmp_path} is not on a disk")
    start = bytes_from_disk()
    assert model.head("c", 4096) == bytes([2]) * 4096
    assert bytes_from_disk() - start <= 4 * 4096
    start = bytes_from_disk()
    model.will_need("d")
    assert bytes_from_disk() - start > 0.9 * n

"""Files written by ours, read by the `gguf` library; and what happens when writing goes wrong."""

import os
import resource
import subprocess
import sys

import gguf
import numpy as np
import pytest

from quanttool.container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import copied, encode_value
from quanttool.errors import QuanttoolError, UsageError
from quanttool.ggml_types import BY_NAME

KINDS = GGUFValueType
METADATA = {
    "general.architecture": (KINDS.STRING, encode_value("llama", KINDS.STRING)),
    "count": (KINDS.UINT32, encode_value(7, KINDS.UINT32)),
    "words": (KINDS.ARRAY, encode_value(["a", "ü"], KINDS.ARRAY, KINDS.STRING)),
    "scores": (KINDS.ARRAY, encode_value([0.5, 1.5], KINDS.ARRAY, KINDS.FLOAT32)),
}
TENSORS = [TensorInfo("a.weight", BY_NAME["Q8_0"], (64, 3, 2)), TensorInfo("b", BY_NAME["F32"], (5,))]
A = np.random.default_rng(2).integers(0, 256, (6, 68), np.uint8)
B = np.arange(5, dtype=np.float32)


def write(path, metadata=METADATA) -> None:
    with GGUFWriter(path, metadata, TENSORS) as writer:
        writer.write_rows("b", 0, B.view(np.uint8)[None])
        writer.write_rows("a.weight", 4, A[4:])  # any order
        writer.write_rows("a.weight", 0, A[:4])


def test_the_library_reads_what_we_wrote(tmp_path):
    write(tmp_path / "ours.gguf")
    reader = gguf.GGUFReader(tmp_path / "ours.gguf")
    assert reader.get_field("count").contents() == 7
    assert reader.get_field("words").contents() == ["a", "ü"]
    assert reader.get_field("scores").contents() == [0.5, 1.5]
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors) == ["a.weight", "b"]
    np.testing.assert_array_equal(tensors["a.weight"].data.reshape(6, 68), A)
    np.testing.assert_array_equal(tensors["b"].data, B)


def test_a_copy_is_the_same_file(tmp_path):
    write(tmp_path / "ours.gguf")
    source = GGUFFile(tmp_path / "ours.gguf")
    with GGUFWriter(tmp_path / "copy.gguf", copied(source.metadata), source.tensors.values()) as writer:
        for name in source.tensors:
            writer.write_rows(name, 0, source.data(name))
    assert (tmp_path / "copy.gguf").read_bytes() == (tmp_path / "ours.gguf").read_bytes()


def test_rows_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(QuanttoolError, match="do not fit"), GGUFWriter(tmp_path / "x.gguf", {}, TENSORS) as writer:
        writer.write_rows("a.weight", 1, A)
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_behind_after_an_error(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"earlier result")
    with pytest.raises(KeyboardInterrupt), GGUFWriter(tmp_path / "x.gguf", METADATA, TENSORS):
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_bytes() == b"earlier result"


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="is a folder"), GGUFWriter(tmp_path, METADATA, TENSORS):
        pass
    missing = tmp_path / "absent" / "x.gguf"
    with pytest.raises(UsageError, match=r"absent does not exist"), GGUFWriter(missing, METADATA, TENSORS):
        pass


def test_a_full_disk_shows_before_the_work(tmp_path):
    """/dev/full style: a limit on the file size stands in for a small disk, in a process of its own."""
    code = f"""
import resource
from quanttool.container import GGUFWriter, TensorInfo
from quanttool.errors import QuanttoolError
from quanttool.ggml_types import BY_NAME
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with GGUFWriter({str(tmp_path / "x.gguf")!r}, {{}}, [TensorInfo("a", BY_NAME["F32"], (1 << 20,))]):
        print("entered")
except QuanttoolError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "x.gguf: cannot be written" in out and "entered" not in out
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 16


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_disk_full_names_the_file(tmp_path, monkeypatch):
    """ENOSPC from the operating system becomes one line."""

    def full(fd, data, position):
        with open("/dev/full", "wb", buffering=0) as device:
            return device.write(bytes(data))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(QuanttoolError, match=r"x\.gguf: the disk is full"):
        write(tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []

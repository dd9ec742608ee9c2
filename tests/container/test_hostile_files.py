"""Damaged files give an error of ours or an object that can be used in full; never anything else."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttool.container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.errors import FileFormatError
from quanttool.ggml_types import BY_NAME


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def small(folder) -> bytes:
    """A small valid file with every kind of thing in it."""
    kinds = GGUFValueType
    metadata = {
        "general.architecture": (kinds.STRING, encode_value("llama", kinds.STRING)),
        "general.alignment": (kinds.UINT32, encode_value(32, kinds.UINT32)),
        "tokens": (kinds.ARRAY, encode_value(["a", "", "ü"], kinds.ARRAY, kinds.STRING)),
        "scores": (kinds.ARRAY, encode_value([0.5, 1.5], kinds.ARRAY, kinds.FLOAT32)),
        "pairs": (kinds.ARRAY, struct.pack("<IQ", 9, 2) + struct.pack("<IQBB", 0, 2, 7, 8) * 2),
        "flag": (kinds.BOOL, encode_value(True, kinds.BOOL)),
    }
    tensors = [TensorInfo("blk.0.a.weight", BY_NAME["Q8_0"], (64, 3)), TensorInfo("b", BY_NAME["F32"], (5,))]
    path = folder / "small.gguf"
    with GGUFWriter(path, metadata, tensors) as writer:
        writer.write_rows("b", 0, np.arange(5, dtype=np.float32).view(np.uint8)[None])
    return path.read_bytes()


def use_everything(path) -> None:
    """Read all there is. The only error that may come out is FileFormatError."""
    try:
        file = GGUFFile(path)
    except FileFormatError:
        return
    for key in file.metadata:
        file.metadata[key]
    total = sum(int(file.data(name).sum()) for name in file.tensors)
    assert total >= 0 and sum(t.n_bytes for t in file.tensors.values()) <= file.n_bytes


def test_every_truncation(small, folder):
    path = folder / "cut.gguf"
    for length in range(len(small)):
        path.write_bytes(small[:length])
        use_everything(path)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_in_every_byte_of_the_header(small, folder, bit):
    path = folder / "flipped.gguf"
    for position in range(420):  # the header and a little more
        damaged = bytearray(small)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        use_everything(path)


@settings(max_examples=300, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(4, 500), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_overwritten_pieces(small, folder, edits):
    damaged = bytearray(small)
    for position, piece in edits:
        damaged[position : position + len(piece)] = piece
    path = folder / "edited.gguf"
    path.write_bytes(damaged)
    use_everything(path)


def test_no_claim_in_a_file_makes_us_allocate(small, folder):
    path = folder / "claims.gguf"
    tracemalloc.start()
    for position in range(4, 420):
        damaged = bytearray(small)
        damaged[position : position + 8] = b"\xff" * 8
        path.write_bytes(damaged[: len(small)])
        use_everything(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20

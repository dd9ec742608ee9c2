"""Models in several files, cut as llama.cpp's gguf-split cuts them."""

import numpy as np
import pytest

from quanttool.container import GGUFFile, GGUFValueType, GGUFWriter, ShardedGGUF, TensorInfo, open_gguf
from quanttool.container.writer import encode_value
from quanttool.errors import FileFormatError, UsageError
from quanttool.ggml_types import BY_NAME

U16, I32, STRING = GGUFValueType.UINT16, GGUFValueType.INT32, GGUFValueType.STRING
TENSORS = [TensorInfo(name, BY_NAME["F32"], (4, 2)) for name in "abcde"]


def values(name: str) -> np.ndarray:
    return np.full((2, 4), ord(name), np.float32)


def write_shards(folder, n_tensors=5, parts=((0, 2), (2, 2), (2, 5)), count=None, names=None):
    """Three files; the second holds no tensors."""
    paths = []
    for number, (start, end) in enumerate(parts):
        metadata = {"general.architecture": (STRING, encode_value("llama", STRING))} if number == 0 else {}
        metadata |= {
            "split.no": (U16, encode_value(number, U16)),
            "split.count": (U16, encode_value(count or len(parts), U16)),
            "split.tensors.count": (I32, encode_value(n_tensors, I32)),
        }
        path = folder / (names[number] if names else f"m-{number + 1:05d}-of-{len(parts):05d}.gguf")
        with GGUFWriter(path, metadata, TENSORS[start:end]) as writer:
            for tensor in TENSORS[start:end]:
                writer.write_rows(tensor.name, 0, values(tensor.name).view(np.uint8))
        paths.append(path)
    return paths


def test_any_shard_opens_the_whole_model(tmp_path):
    paths = write_shards(tmp_path)
    for path in paths:
        model = open_gguf(path)
        assert isinstance(model, ShardedGGUF) and model.paths == paths and model.has_data
        assert list(model.tensors) == list("abcde") and model.metadata["general.architecture"] == "llama"
        for name in model.tensors:
            np.testing.assert_array_equal(model.data(name).view(np.float32), values(name))
            model.release(name, 0, 2)
        assert model.n_bytes == sum(path.stat().st_size for path in paths)


def test_an_unsplit_file_is_just_that(tmp_path):
    with GGUFWriter(tmp_path / "one.gguf", {"split.count": (U16, encode_value(0, U16))}, TENSORS):
        pass
    assert isinstance(open_gguf(tmp_path / "one.gguf"), GGUFFile)


def test_missing_and_renamed_shards(tmp_path):
    paths = write_shards(tmp_path)
    paths[1].unlink()
    with pytest.raises(UsageError, match=r"m-00002-of-00003\.gguf: no such file; 1 of the model's 3 files are missing"):
        open_gguf(paths[0])
    paths[0].rename(tmp_path / "first.gguf")
    with pytest.raises(UsageError, match="is one of 3 files of a model"):
        open_gguf(tmp_path / "first.gguf")


def test_shards_that_do_not_belong_together(tmp_path):
    paths = write_shards(tmp_path, n_tensors=6)
    with pytest.raises(FileFormatError, match="hold 5 tensors, expected 6"):
        open_gguf(paths[0])
    paths = write_shards(tmp_path, parts=((0, 3), (2, 2), (2, 5)))
    with pytest.raises(FileFormatError, match=r"00003\.gguf: tensor c is in m-00001"):
        open_gguf(paths[0])
    paths = write_shards(tmp_path)
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(FileFormatError, match=r"00003\.gguf: does not say that it is file 3 of 3"):
        open_gguf(paths[0])

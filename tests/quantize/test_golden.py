"""What llama-quantize wrote, byte for byte.

small.json: arguments -> sha256 of the whole file that llama-quantize made of the files of small_model.py, header
included. `q8.gguf` is the result of `model.gguf Q8_0`.
s768-f32-*.json: tensor -> [type, sha256 of its bytes] for the 768-wide SmolLM2, `-imatrix` with the imatrix of four
chunks of wiki.test.raw.
"""

import hashlib
import json
from pathlib import Path

import pytest

from quanttool.cli.quantize import command
from quanttool.container import GGUFFile

from .small_model import write_imatrix, write_model

GOLDEN = Path(__file__).parents[1] / "golden" / "quantize"
SMALL = json.loads((GOLDEN / "small.json").read_text())

# llama-quantize of SmolLM2-135M-Instruct.Q4_1.gguf with --allow-requantize: rows of 576, so most tensors fall back
SMOLLM2 = {
    "Q4_K_M": "dc0f3a02e821146247a0af6895adf9872124f368682cb110cb9ed09ff2a9f9f1",
    "Q3_K_M": "01045a8fee6c962e4f7b0f80dccf937503738f61f987c305378fd3f527eac9d4",
}


def quantize(*arguments) -> None:
    command.main([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_model(folder / "model.gguf")
    write_model(folder / "bf16.gguf", "BF16")
    write_imatrix(folder / "imatrix.gguf")
    write_imatrix(folder / "imatrix.dat", "dat")
    quantize("--no-provenance", folder / "model.gguf", folder / "q8.gguf", "Q8_0")
    return folder


@pytest.mark.parametrize("arguments", SMALL)
def test_small_files_equal_those_of_llama_quantize(folder, monkeypatch, arguments):
    monkeypatch.chdir(folder)  # the imatrix's name, as given, is in the file
    *options, target = arguments.split()
    rules = ("--imatrix-rules", "llama.cpp", "--mix-rules", "llama.cpp")
    quantize("--no-provenance", *rules, *options, "out.gguf", target)
    assert hashlib.sha256(Path("out.gguf").read_bytes()).hexdigest() == SMALL[arguments]


@pytest.mark.parametrize("target", SMOLLM2)
def test_a_real_model_equals_that_of_llama_quantize(smollm2_path, tmp_path, target):
    quantize("--no-provenance", "--allow-requantize", smollm2_path, tmp_path / "out.gguf", target)
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == SMOLLM2[target]


@pytest.mark.parametrize("case", ["Q4_0", "Q4_K_M", "Q4_K_M-imatrix", "Q3_K_M-imatrix", "IQ4_XS-imatrix"])
def test_every_tensor_has_the_type_and_bytes_of_llama_quantize(smollm2_768, shared, tmp_path, case):
    target, _, imatrix = case.partition("-")
    options = ["--imatrix", shared / "golden" / "imatrix" / "s768-4chunks.gguf"] if imatrix else []
    quantize(*options, smollm2_768, tmp_path / "out.gguf", target)
    written = GGUFFile(tmp_path / "out.gguf")
    digests = {
        name: [tensor.type.name, hashlib.sha256(written.data(name)).hexdigest()]
        for name, tensor in written.tensors.items()
    }
    assert digests == json.loads((GOLDEN / f"s768-f32-{case}.json").read_text())


# sha256 over "name type\n" and the bytes of every tensor, by name, of what ik_llama.cpp's `llama-quantize --repack`
# made of the file that the mix gives.
REPACKED = {
    "Q8_0": "de01235fc22290ac2dda7f55ab9cd3075aa0d26a0820872852a9c263f9e506b7",
    "Q4_K_M": "c3d2bf44b7b9120eac14b71f1b612338c7a615357352e3f84e8c1525c86b9bee",
}


@pytest.mark.parametrize("target", REPACKED)
def test_repacked_tensors_equal_those_of_ik_llama_cpp(folder, tmp_path, target):
    quantize("--mix-rules", "llama.cpp", folder / "model.gguf", tmp_path / "base.gguf", target)
    quantize(tmp_path / "base.gguf", tmp_path / "woven.gguf", "COPY", "--repack")
    woven, digest = GGUFFile(tmp_path / "woven.gguf"), hashlib.sha256()
    for name, tensor in sorted(woven.tensors.items()):
        digest.update(f"{name} {tensor.type}\n".encode() + woven.data(name).tobytes())
    assert digest.hexdigest() == REPACKED[target]

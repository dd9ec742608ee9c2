"""Our own base files: exact, self-describing, refused where damaged."""

import numpy as np
import pytest

from quanttool.container import GGUFFile
from quanttool.errors import FileFormatError, UsageError
from quanttool.evaluate import BaseFile, ModelPredictions, compare, negative_log_likelihood, split, write_base_file
from quanttool.evaluate.base_file import output_hash, tokenizer_hash
from quanttool.models import load_model, load_output
from tests.models import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model with its chunks, hidden states and -log p."""
    folder = tmp_path_factory.mktemp("base")
    metadata, tensors = tiny.llama()
    model = load_model(tiny.write(folder / "model.gguf", metadata | tiny.ascii_tokenizer(), tensors))
    chunks = split(np.random.default_rng(3).integers(1, tiny.N_VOCAB, 200), 32, bos_id=0)
    hidden = chunks.scored(model.hidden_states(chunks.tokens))
    nll = negative_log_likelihood(model, hidden, chunks.targets.ravel()).reshape(chunks.targets.shape)
    return model, chunks, hidden, nll


def write(base, path, *options):
    model, chunks, hidden, nll = base
    write_base_file(path, model, hidden, chunks, nll, *options)
    return path


def test_it_holds_what_was_given_and_says_what_it_is(base, tmp_path):
    model, chunks, hidden, nll = base
    file = BaseFile(write(base, tmp_path / "base.gguf"))
    assert np.array_equal(file.hidden(len(chunks))[:], hidden[:])
    assert np.array_equal(file.hidden(2)[3:50], hidden[3 : 2 * chunks.n_scored])
    assert np.array_equal(file.text, chunks.text) and np.array_equal(file.nll, nll)
    assert np.array_equal(file.chunks().tokens, chunks.tokens) and file.bos_id == 0
    assert file.facts["output_sha256"] == output_hash(model)
    assert file.facts["tokenizer_sha256"] == tokenizer_hash(model.file)
    assert file.facts["precision"] == "f32" and file.facts["program"].startswith("quanttool ")
    assert (file.n_vocab, file.n_embd, file.has_output) == (tiny.N_VOCAB, tiny.N_EMBD, False)


@pytest.mark.parametrize("embed", [False, True])
def test_a_model_does_not_diverge_from_its_own_file_at_all(base, tmp_path, embed):
    model, chunks, hidden, nll = base
    path = write(base, tmp_path / "base.gguf", "f32", embed)
    file = BaseFile(path)
    output = load_output(path) if embed else model
    assert file.has_output == embed
    stored = ModelPredictions(output, file.hidden(len(chunks)))
    (found,) = compare(stored, [ModelPredictions(model, hidden)], chunks.targets)
    assert not found.kld.any() and found.same_top.all() and np.array_equal(found.nll_base, nll)
    file.check_nll(found.nll_base)


def test_bfloat16_states_are_half_as_large_and_rounded(base, tmp_path):
    _, chunks, hidden, _ = base
    whole, half = (write(base, tmp_path / f"{kind}.gguf", kind) for kind in ("f32", "bf16"))
    n_values = hidden[:].size
    assert whole.stat().st_size - half.stat().st_size == 2 * n_values
    rounded = BaseFile(half).hidden(len(chunks))[:]
    assert not (rounded.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(rounded, hidden[:], rtol=2**-8)


def test_wrong_likelihoods_are_noticed(base, tmp_path):
    _, _, _, nll = base
    file = BaseFile(write(base, tmp_path / "base.gguf"))
    with pytest.raises(UsageError, match=r"off by 1\.5 nats"):
        file.check_nll(nll[:2] + 1.5)
    with pytest.raises(UsageError, match="off by nan"):
        file.check_nll(nll * np.nan)


def test_the_output_hash_is_that_of_the_last_product(base, tmp_path):
    metadata, tensors = tiny.llama()
    tensors["blk.0.attn_q.weight"][0, 0] += 1
    other = load_model(tiny.write(tmp_path / "other.gguf", metadata, tensors))
    assert output_hash(other) == output_hash(base[0])
    tensors["output.weight"][-1, -1] += 1
    other = load_model(tiny.write(tmp_path / "other2.gguf", metadata, tensors))
    assert output_hash(other) != output_hash(base[0])


def test_truncated_and_foreign_files_are_refused(base, tmp_path):
    data = write(base, tmp_path / "base.gguf").read_bytes()
    path = tmp_path / "damaged.gguf"
    for n_bytes in (0, 3, 100, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:n_bytes])
        with pytest.raises(FileFormatError):
            BaseFile(path)
    with pytest.raises(FileFormatError, match="no base file"):
        BaseFile(base[0].file.path)
    with pytest.raises(UsageError, match="is a base file and no model"):
        load_model(tmp_path / "base.gguf")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"quanttool.base.version", b"quanttool.base.versiox", "version None"),
        (b"base.hidden_states", b"base.hidden_statex", "hidden_states is missing"),
        (b"quanttool.base.n_vocab", b"quanttool.base.n_vocax", "n_vocab is None"),
        (b"base.nll", b"base.nlk", "nll is missing"),
    ],
)
def test_hostile_metadata(base, tmp_path, old, new, message):
    path = write(base, tmp_path / "base.gguf")
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(FileFormatError, match=message):
        BaseFile(path)


def test_tokens_outside_the_vocabulary(base, tmp_path):
    path = write(base, tmp_path / "base.gguf")
    file = GGUFFile(path)
    at = file.data_start + file.tensors["base.tokens"].offset
    data = bytearray(path.read_bytes())
    data[at : at + 4] = (tiny.N_VOCAB).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="outside its vocabulary of 128"):
        BaseFile(path)

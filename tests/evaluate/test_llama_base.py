"""llama.cpp's base files: read, written as they are, and refused where they are not."""

import numpy as np
import pytest

from quanttool.errors import FileFormatError, UsageError
from quanttool.evaluate import LlamaBaseFile, ModelPredictions, compare, predictions, split, windows, write_llama_base
from tests import naive_evaluate as naive
from tests import naive_log_probs
from tests.evaluate.fake import FakeModel, hidden_states

N_VOCAB = 51


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Path, model, hidden states, chunks and -log p of a base file of three chunks of 10 tokens."""
    path = tmp_path_factory.mktemp("base") / "base.kld"
    model = FakeModel(n_vocab=N_VOCAB, scale=3)
    chunks = split(np.random.default_rng(4).integers(0, N_VOCAB, 35), 10, bos_id=1)
    hidden = hidden_states(len(chunks) * chunks.n_scored)
    return path, model, hidden, chunks, write_llama_base(path, model, hidden, chunks, 16.0)


def test_bytes(written):
    path, model, hidden, chunks, nll = written
    header = b"_logits_" + np.array([10, N_VOCAB, 3], "<i4").tobytes()
    rows = [naive_log_probs.encode(line, 16) for line in model.output_logits(hidden)]
    assert path.read_bytes() == header + chunks.text.astype("<i4").tobytes() + np.array(rows).tobytes()
    expected = [
        -naive.log_softmax(row)[t] for row, t in zip(model.output_logits(hidden), chunks.targets.flat, strict=True)
    ]
    np.testing.assert_allclose(nll.ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize("width", [16, 50])
def test_a_large_vocabulary_is_written_and_read_in_parts(written, tmp_path, monkeypatch, width):
    path, model, hidden, chunks, nll = written
    one_part = compare(LlamaBaseFile(path).predictions(3), [ModelPredictions(model, hidden)], chunks.targets)
    monkeypatch.setattr(predictions, "TOKENS_MULTIPLE", 1)
    monkeypatch.setattr(predictions, "WEIGHT_BYTES", width * 4 * model.n_embd)
    again = write_llama_base(tmp_path / "parts.kld", model, hidden, chunks, 16.0)
    assert (tmp_path / "parts.kld").read_bytes() == path.read_bytes()
    np.testing.assert_allclose(again, nll, rtol=1e-12)
    found = compare(LlamaBaseFile(path).predictions(3), [ModelPredictions(model, hidden)], chunks.targets)
    np.testing.assert_allclose(found[0].kld, one_part[0].kld, atol=1e-12)


def test_it_is_read_back(written):
    path, _, _, chunks, _ = written
    file = LlamaBaseFile(path)
    assert np.array_equal(file.text, chunks.text) and file.text.dtype == np.int32
    again = file.chunks(bos_id=1)
    assert np.array_equal(again.tokens, chunks.tokens) and np.array_equal(again.targets, chunks.targets)
    assert len(file.predictions(2)) == 2 * chunks.n_scored


def test_statistics_count_what_llama_perplexity_counts(written):
    """Nothing at or below 16 nats, log-probabilities as the codes give them, no sum of theirs made to be 1."""
    path, _, hidden, chunks, _ = written
    file, other = LlamaBaseFile(path), FakeModel(n_vocab=N_VOCAB, seed=8, scale=3)
    (found,) = compare(file.predictions(3), [ModelPredictions(other, hidden)], chunks.targets)
    places = np.frombuffer(path.read_bytes()[20 + 4 * 30 :], "<u2").reshape(len(hidden), -1)
    for i, (row, logits) in enumerate(zip(places, other.output_logits(hidden), strict=True)):
        log_p, log_q = naive_log_probs.decode(row, N_VOCAB).astype(float), naive.log_softmax(logits)
        kld = sum(np.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -16)
        assert found.kld.ravel()[i] == pytest.approx(kld, rel=1e-10)
        assert found.nll_base.ravel()[i] == -log_p[chunks.targets.ravel()[i]]


def test_llama_perplexity_wrote_the_golden_file(shared):
    file = LlamaBaseFile(shared / "golden" / "kld" / "s768-c64-2chunks.kld")
    assert (file.n_vocab, file.text.shape, file.n_scored) == (49152, (2, 64), 31)
    rows = file.predictions(2).part(slice(0, 49152))(slice(0, 62))
    mass = np.exp(rows.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(mass, 1, atol=0.01)  # the codes' floor adds a little for every token below it


def test_our_writing_of_the_golden_file(shared, smollm2_768, tmp_path):
    """Codes differ where logits do, in their last bits: by one step of 0.00024 nats."""
    from quanttool.models import load_model

    golden = shared / "golden" / "kld" / "s768-c64-2chunks.kld"
    model, chunks = load_model(smollm2_768), LlamaBaseFile(golden).chunks(None)
    hidden = chunks.scored(model.hidden_states(chunks.tokens))
    write_llama_base(tmp_path / "own.kld", model, hidden, chunks, 16.0)
    theirs, ours = golden.read_bytes(), (tmp_path / "own.kld").read_bytes()
    start = 20 + 4 * 128
    assert ours[:start] == theirs[:start]
    a, b = (np.frombuffer(data[start:], "<u2").reshape(62, -1)[:, 4:].astype(int) for data in (ours, theirs))
    assert a.shape == b.shape and np.abs(a - b).max() <= 1
    assert (a != b).mean() < 0.03


def test_damaged_files_are_refused(written, tmp_path):
    data = written[0].read_bytes()

    def damaged(message, *, head=b"", start=0, data=data):
        path = tmp_path / "damaged.kld"
        path.write_bytes(data[:start] + head + data[start + len(head) :])
        with pytest.raises(FileFormatError, match=message):
            LlamaBaseFile(path).predictions(3)

    damaged("does not start with", head=b"_logitz_")
    damaged("does not start with", data=b"_logits_")
    damaged("the file has .*truncated", data=data[:-1])
    damaged("more than belongs to it", data=data + b"\0")
    damaged("truncated", head=np.int32([2**31 - 1]).tobytes(), start=8)
    for n in (0, -5):
        damaged("is damaged", head=np.int32([n]).tobytes(), start=16)
    damaged("tokens outside its vocabulary", head=np.int32([N_VOCAB]).tobytes(), start=24)
    damaged("chunk 1 holds no log-prob", head=np.float32([np.nan]).tobytes(), start=20 + 120)
    with pytest.raises(UsageError, match="no such file"):
        LlamaBaseFile(tmp_path / "absent.kld")


def test_a_stride_cannot_be_told(tmp_path):
    chunks = windows(range(40), 10, 4)
    with pytest.raises(UsageError, match="know no stride"):
        write_llama_base(tmp_path / "x.kld", FakeModel(), hidden_states(4 * len(chunks)), chunks, 16.0)

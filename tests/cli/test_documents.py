"""quanttool imatrix with conversations, and with documents packed either way."""

import json

import numpy as np
import pytest

from quanttool.imatrix import load
from quanttool.imatrix.collect import Collector
from quanttool.models import load_model
from quanttool.tokenizer import load_tokenizer
from tests.models import tiny

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|unused0|>' }}{% endfor %}"
LINES = [
    {"messages": [{"role": "user", "content": "How many ducks?"}, {"role": "assistant", "content": "Six."}]},
    {"conversations": [{"from": "human", "value": "On a log?"}, {"from": "gpt", "value": "On a big log in the sun."}]},
]
RENDERED = ["user: How many ducks?<|unused0|>assistant: Six.<|unused0|>",
            "user: On a log?<|unused0|>assistant: On a big log in the sun.<|unused0|>"]  # fmt: skip


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    metadata, tensors = tiny.llama()
    metadata |= tiny.ascii_tokenizer() | {"tokenizer.chat_template": TEMPLATE}
    return tiny.write(tmp_path_factory.mktemp("tiny") / "chat.gguf", metadata, tensors)


@pytest.fixture
def conversations(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return path


def naive_imatrix(model_path, sequences):
    """Each sequence run by itself."""
    model = load_model(model_path)
    collector = Collector(model.file.tensors, 512)
    for tokens in sequences:
        model.hidden_states(np.array([tokens]), collector)
    return collector.imatrix([], 1)


def assert_same(path, expected):
    found = load(path)
    assert found.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        assert found.entries[name].counts.tolist() == entry.counts.tolist()
        np.testing.assert_allclose(found.entries[name].sums_of_squares, entry.sums_of_squares, rtol=1e-5)


def test_documents_by_themselves(run, model_path, conversations, text, tmp_path):
    out = tmp_path / "x.gguf"
    options = ("imatrix", "-m", model_path, "-f", conversations, "-f", text, "-o", out, "-c", 40, "--pack", "document")
    result = run(*options, "--json")
    assert result.code == 0
    tokenizer = load_tokenizer(model_path)
    tokens = [tokenizer.encode(rendered, parse_special=True) for rendered in RENDERED]
    tokens.append(tokenizer.encode(text.read_text().removesuffix("\n")))
    sequences = [part[start : start + 40] for part in tokens for start in range(0, len(part), 40)]
    assert_same(out, naive_imatrix(model_path, sequences))
    shares = json.loads(result.out)["documents"]
    assert [document["tokens"] for document in shares] == [len(part) for part in tokens]
    assert sum(document["share"] for document in shares) == pytest.approx(1)
    assert "talk.jsonl:2: " in result.err and " %" in result.err


def test_contiguous_documents(run, model_path, conversations, tmp_path):
    out = tmp_path / "x.gguf"
    assert run("imatrix", "-m", model_path, "-f", conversations, "-o", out, "-c", 32).code == 0
    tokenizer = load_tokenizer(model_path)
    tokens = [token for rendered in RENDERED for token in tokenizer.encode(rendered, parse_special=True)]
    chunks = np.array(tokens[: len(tokens) // 32 * 32]).reshape(-1, 32)
    if tokenizer.add_bos:
        chunks[:, 0] = tokenizer.bos_id
    assert_same(out, naive_imatrix(model_path, chunks.tolist()))


def test_wrong_requests(run, model_path, tiny_model, conversations, tmp_path):
    out = ("-o", tmp_path / "x.gguf")
    result = run("imatrix", "-m", tiny_model, "-f", conversations, *out)
    assert result.code == 1 and "has no chat template" in result.err
    result = run("imatrix", "-m", model_path, "-f", conversations, *out, "--pack", "document", "--save-frequency", 2)
    assert result.code == 2 and "--pack document is one pass" in result.err


def test_figures(run, tiny_model, text, tmp_path):
    out, folder = tmp_path / "x.gguf", tmp_path / "figures"
    options = ("imatrix", "-m", tiny_model, "-f", text, "-o", out, "-c", 32, "--no-ppl", "--layer-similarity")
    assert run(*options, "--plots", folder).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["importance.svg", "similarity.svg"]
    assert (folder / "importance.svg").read_text().count("<title>") == 14  # seven weights in each of two layers
    assert run("imatrix", "--in-file", out, "--plots", folder / "again").code == 0
    assert (folder / "again" / "importance.svg").read_bytes() == (folder / "importance.svg").read_bytes()
    result = run("imatrix", "--in-file", out, "--plots", out)
    assert result.code == 2 and "is a file" in result.err

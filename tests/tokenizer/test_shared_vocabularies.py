"""The five vocabularies and test texts that llama.cpp ships, both directions."""

import pytest

import quanttool

VOCABULARIES = ("deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "qwen2")


@pytest.fixture(params=VOCABULARIES)
def vocabulary(shared, request):
    """(tokenizer, texts, ids of each) as llama.cpp's test-tokenizer-0 reads them: no special tokens are added."""
    path = shared / "vocab" / f"ggml-vocab-{request.param}.gguf"
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_suffix(".gguf.out").read_text().splitlines()
    assert texts.pop() == ""
    assert len(texts) == len(lines) == 46
    return quanttool.load_tokenizer(path), texts, [[int(id) for id in line.split()] for line in lines]


def test_text_to_ids(vocabulary):
    tokenizer, texts, ids = vocabulary
    for text, expected in zip(texts, ids, strict=True):
        assert tokenizer.encode(text, add_special=False) == expected, repr(text)


def test_ids_to_text(vocabulary):
    tokenizer, texts, ids = vocabulary
    for text, expected in zip(texts, ids, strict=True):
        assert tokenizer.decode(expected) == text


def test_ids_of_a_text_do_not_depend_on_what_was_encoded_before(vocabulary):
    tokenizer, texts, ids = vocabulary
    tokenizer.encode("\n".join(texts))
    assert [tokenizer.encode(text, add_special=False) for text in reversed(texts)] == ids[::-1]

"""SmolLM2's tokenizer on a real text, against the count that llama.cpp gives."""

import quanttool


def test_wiki_test_has_the_tokens_that_llama_cpp_counts(shared, smollm2_path):
    text = (shared / "data" / "wiki.test.raw").read_bytes().decode()
    tokenizer = quanttool.load_tokenizer(smollm2_path)
    ids = tokenizer.encode(text)
    assert len(ids) == 303415
    assert tokenizer.decode(ids) == text

"""Small vocabularies with the ids that llama.cpp gives: one for all ways to cut words, one for each other family."""

import json

import numpy as np
import pytest

from quanttool.tokenizer.pre_tokenizers import PRE_TOKENIZERS

# Expressions that do not differ on any text: [\r\n] after \s* matches as much as [\r\n]+ does.
SAME_WORDS = {"bailingmoe": "qwen2", "dbrx": "llama-bpe"}


@pytest.fixture(scope="module")
def pre_tokenizers(golden):
    return json.loads((golden / "tokenizer" / "pre_tokenizers.json").read_text())


@pytest.fixture(scope="module")
def families(golden):
    return json.loads((golden / "tokenizer" / "families.json").read_text())


@pytest.mark.parametrize("name", sorted(name for name, rules in PRE_TOKENIZERS.items() if rules.byte_symbols))
def test_words_are_cut_as_llama_cpp_cuts_them(pre_tokenizers, tokenizer_of, name):
    rules = PRE_TOKENIZERS[name]
    known = next(other for other in pre_tokenizers["ids"] if PRE_TOKENIZERS[other] == rules)
    keys = {key: pre_tokenizers[key] for key in ("tokens", "merges", "bos_token_id")}
    tokenizer = tokenizer_of(model="gpt2", pre=name, **keys)
    for text, expected in zip(pre_tokenizers["texts"], pre_tokenizers["ids"][known], strict=True):
        assert tokenizer.encode(text) == expected, repr(text)


def test_the_texts_tell_the_pre_tokenizers_apart(pre_tokenizers):
    found = {}
    for name, ids in pre_tokenizers["ids"].items():
        other = found.setdefault(json.dumps(ids), name)
        assert (
            other == name
            or PRE_TOKENIZERS[other].expressions == PRE_TOKENIZERS[name].expressions
            or (SAME_WORDS.get(name) == other)
        )


FAMILIES = (
    *("gemma4", "gemma4, add_bos_token false", "sarvam-moe", "bert", "bert, cased", "bert, accents kept"),
    *("t5", "t5, plain spaces", "t5, space in front", "test"),
)


def test_every_family_is_tested(families):
    assert set(families) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("parse_special", [False, True])
def test_family(families, tokenizer_of, name, parse_special):
    case = families[name]
    keys = dict(case["keys"])
    keys["scores"] = np.array(keys["scores"], np.float32)
    keys["token_type"] = np.array(keys["token_type"], np.int32)
    if "precompiled_charsmap" in keys:
        keys["precompiled_charsmap"] = np.frombuffer(bytes.fromhex(keys["precompiled_charsmap"]), np.uint8)
    tokenizer = tokenizer_of(**keys)
    expected = case["ids_parse_special" if parse_special else "ids"]
    for text, ids in zip(case["texts"], expected, strict=True):
        assert tokenizer.encode(text, parse_special=parse_special) == ids, repr(text)

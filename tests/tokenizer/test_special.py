"""Special tokens: which types are seen, what names change, white space beside them. Checked with llama.cpp."""

import numpy as np
import pytest

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
LETTERS = ["a", "b", "c", "Ġ", "Ċ", "<", ">", "|", "/", "_"]


def vocabulary(*special, **more):
    """Bytes of a few characters (a: 0, b: 1, c: 2, space: 3, newline: 4) and special tokens from 10 on."""
    types = [NORMAL] * len(LETTERS) + [kind for _, kind in special]
    tokens = LETTERS + [token for token, _ in special]
    defaults = {"model": "gpt2", "pre": "gpt-2", "merges": []}
    return {**defaults, "tokens": tokens, "token_type": np.array(types, np.int32), **more}


def test_types(tokenizer_of):
    special = [("<U>", UNKNOWN), ("<C>", CONTROL), ("<D>", USER_DEFINED), ("<X>", UNUSED), ("<N>", NORMAL)]
    tokenizer = tokenizer_of(**vocabulary(*special))
    assert tokenizer.encode("a<D>b<C>c") == [0, 12, 1, 5, 6, 2]
    assert tokenizer.encode("a<U><C><D>b<X><N>", parse_special=True) == [0, 10, 11, 12, 1, 5, 6, 5, 6]


def test_the_longest_token_is_cut_out_first(tokenizer_of):
    tokenizer = tokenizer_of(**vocabulary(("ab", USER_DEFINED), ("bca", USER_DEFINED)))
    assert tokenizer.encode("abcab") == [0, 11, 1]
    assert tokenizer.encode("cababc") == [2, 10, 10, 2]


def test_names_that_end_generation_are_control_tokens(tokenizer_of):
    special = [("<|im_end|>", USER_DEFINED), ("<|eot_id|>", NORMAL), ("<b>", USER_DEFINED)]
    tokenizer = tokenizer_of(**vocabulary(*special))
    assert tokenizer.encode("<b>a<|im_end|>") == [12, 0, 5, 7, 9, 7, 6]
    assert tokenizer.encode("a<|im_end|><|eot_id|>", parse_special=True) == [0, 10, 11]


def test_fill_in_the_middle_names_are_control_tokens_unless_the_file_names_others(tokenizer_of):
    special = [("<PRE>", USER_DEFINED), ("<SUF>", USER_DEFINED)]
    assert tokenizer_of(**vocabulary(*special)).encode("<PRE><SUF>") == [5, 6, 5, 6]
    assert tokenizer_of(**vocabulary(*special, fim_pre_token_id=0)).encode("<PRE><SUF>") == [10, 5, 6]
    assert tokenizer_of(**vocabulary(*special, suffix_token_id=0)).encode("<PRE><SUF>") == [5, 6, 11]


def test_markers_of_harmony_are_text(tokenizer_of):
    markers = [("<|start|>", CONTROL), ("<|end|>", CONTROL)]
    assert tokenizer_of(**vocabulary(*markers)).encode("<|start|><|end|>") == [10, 5, 7, 7, 6]
    calls = [*markers, ("<|return|>", CONTROL), ("<|call|>", CONTROL)]
    assert tokenizer_of(**vocabulary(*calls)).encode("<|start|><|end|>") == [10, 11]


@pytest.mark.parametrize(
    ("name", "pre", "special", "ids"),
    [
        ("", "gpt-2", "<a>", [0, 3, 10, 3, 4, 1]),
        ("Phi-3-mini", "gpt-2", "<a>", [0, 3, 10, 1]),
        ("Phi-3-mini", "gpt-2", "<s>", [0, 3, 10, 3, 4, 1]),
        ("", "jina-v2-de", "<mask>", [0, 10, 3, 4, 1]),
        ("modern-bert-base", "gpt-2", "[MASK]", [0, 10, 3, 4, 1]),
    ],
)
def test_tokens_that_swallow_white_space(tokenizer_of, name, pre, special, ids):
    phi = [(token, CONTROL) for token in ("</s>", "<unk>", "<s>", "<|endoftext|>") if token != special]
    tokenizer = tokenizer_of(name, **vocabulary((special, CONTROL), *phi, pre=pre))
    assert tokenizer.encode(f"a {special} \nb", parse_special=True) == ids


def test_thousands_of_special_tokens(tokenizer_of):
    special = [(f"<b{number}>", USER_DEFINED) for number in range(3000)]
    tokenizer = tokenizer_of(**vocabulary(*special))
    assert tokenizer.encode("a<b7>b<b2999>" * 1000) == [0, 17, 1, 3009] * 1000

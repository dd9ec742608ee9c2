"""Cutting text into words."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttool.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from quanttool.tokenizer.splitting import character_categories, is_white_space, split_words

ROWS = sorted({row.expressions: name for name, row in sorted(PRE_TOKENIZERS.items(), reverse=True)}.values())


@settings(deadline=None, max_examples=30)
@given(
    text=st.text(st.characters(exclude_categories=()), max_size=60) | st.text(" \t\r\n'sa1A.é的१\u0301", max_size=60)
)
@pytest.mark.parametrize("name", ROWS)
def test_words_are_the_text_again(name, text):
    words = split_words(text, PRE_TOKENIZERS[name].expressions)
    assert "".join(words) == text
    assert "" not in words


def test_categories_are_those_of_unicode():
    """Python's own table may be older or newer; what both know must agree."""
    known = 0
    for code, category in enumerate(map(chr, character_categories().tolist())):
        python = unicodedata.category(chr(code))
        if category != "?" and python != "Cn":
            assert category == python[0], hex(code)
            known += 1
    assert known > 280_000
    assert np.unique(character_categories()).tolist() == sorted(map(ord, "?CLMNPSZ"))


def test_white_space_is_unicodes_property():
    white = [code for code in range(0x110000) if is_white_space(chr(code))]
    others = [0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
    assert white == [9, 10, 11, 12, 13, 32, *others]


def test_only_ascii_letters_have_case():
    """A published expression would cut "éÀ" after é; llama.cpp does not."""
    words = split_words("abCD éÀx", PRE_TOKENIZERS["tekken"].expressions)
    assert words == ["ab", "CD", " éÀx"]

"""The merge loop and the seams against slow twins."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttool.tokenizer.merging import merge
from quanttool.tokenizer.seams import Seams


def naive_merge(symbols, priority, joint):
    """Look at all pairs, join the best, start again."""
    symbols = list(symbols)
    while True:
        pairs = [
            (priority[a + joint + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + joint + b in priority
        ]
        if not pairs:
            return symbols
        _, at = min(pairs)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


parts = st.text("abc", min_size=1, max_size=3)
merges = st.lists(st.tuples(parts, parts), max_size=12, unique=True)


@settings(deadline=None)
@given(st.text("abc", max_size=30), merges)
def test_ranked_merges(text, merges):
    ranks = {f"{left} {right}": rank for rank, (left, right) in enumerate(merges)}
    assert merge(list(text), ranks, " ") == naive_merge(text, ranks, " ")


@settings(deadline=None)
@given(st.text("abc", max_size=30), st.dictionaries(st.text("abc", min_size=2, max_size=5), st.integers(-3, 3)))
def test_scored_merges_take_the_leftmost_of_equals(text, priority):
    assert merge(list(text), priority, "") == naive_merge(text, priority, "")


def test_a_very_long_word_is_no_problem():
    ranks = {"= =": 0, "== ==": 1, "==== ====": 2}
    assert merge(["="] * 100_001, ranks, " ") == ["========"] * 12_500 + ["="]


@settings(deadline=None)
@given(st.text("abcd", max_size=40), st.dictionaries(st.text("abcd", min_size=1, max_size=4), st.integers(-3, 3)))
def test_merging_between_seams_is_merging_the_whole(text, priority):
    pieces = Seams.of_tokens(priority).split(text)
    assert "".join(pieces) == text
    assert [symbol for piece in pieces for symbol in merge(list(piece), priority, "")] == merge(
        list(text), priority, ""
    )


@settings(deadline=None)
@given(st.text("abc", max_size=40), merges)
def test_merging_between_seams_of_ranked_merges(text, merges):
    ranks = {f"{left} {right}": rank for rank, (left, right) in enumerate(merges)}
    pieces = Seams.of_merges(list(ranks)).split(text)
    assert [symbol for piece in pieces for symbol in merge(list(piece), ranks, " ")] == merge(list(text), ranks, " ")


def test_seams_are_where_no_token_spans():
    assert Seams.of_tokens(["▁the", "ca", "t", "▁▁"]).split("▁the▁▁cat") == ["▁the", "▁▁", "ca", "t"]
    assert Seams.of_merges(["▁t he", "c a"]).split("▁the▁cat") == ["▁", "th", "e", "▁", "ca", "t"]
    assert Seams(np.array([], np.uint64)).split("") == [""]

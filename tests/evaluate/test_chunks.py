"""Cutting a text into chunks as llama-perplexity does."""

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.evaluate import split, windows


def test_second_half_is_scored_and_the_tail_dropped():
    chunks = split(range(30), n_ctx=8)
    assert chunks.tokens.tolist() == [list(range(i, i + 8)) for i in (0, 8, 16)]
    # from position 4 on, each token predicts the next: 3 of 8, 255 of 512
    assert chunks.targets.tolist() == [[5, 6, 7], [13, 14, 15], [21, 22, 23]]
    assert (len(chunks), chunks.n_ctx, chunks.n_scored) == (3, 8, 3)
    assert split(range(1024), 512).n_scored == 255
    assert split(range(27), 9).targets.tolist() == [[5, 6, 7, 8], [14, 15, 16, 17], [23, 24, 25, 26]]


def test_scored_hidden_states_are_those_that_predict_the_targets():
    chunks = split(range(30), n_ctx=8)
    hidden = np.repeat(chunks.tokens[..., None], 2, axis=-1).astype(np.float32)  # a state that knows its token
    rows = chunks.scored(hidden)
    assert len(rows) == 9 and rows[3:5].shape == (2, 2) and rows[8:20].shape == (1, 2)
    assert (rows[:][:, 0] + 1).astype(int).tolist() == chunks.targets.ravel().tolist()


def test_bos_replaces_the_first_token_that_is_fed_but_no_target():
    chunks = split(range(100, 130), n_ctx=8, bos_id=1)
    assert chunks.tokens[:, 0].tolist() == [1, 1, 1]
    assert chunks.tokens[:, 1].tolist() == [101, 109, 117]
    assert 1 not in chunks.targets


def test_first_chunk_and_number_of_chunks():
    assert split(range(80), 8, n_chunks=2, first_chunk=3).tokens[:, 0].tolist() == [24, 32]
    assert len(split(range(80), 8, n_chunks=99)) == 10
    assert len(split(range(80), 8, n_chunks=1)) == 1


def test_groups_keep_the_order_and_their_numbers():
    chunks = split(range(88), 8, first_chunk=1)
    groups = list(chunks.groups(stops=[3]))
    assert [len(group) for group in groups] == [3, 3, 3, 1]
    assert [group.number for group in groups] == [2, 5, 8, 11]
    assert np.array_equal(np.concatenate([group.tokens for group in groups]), chunks.tokens)
    assert np.array_equal(np.concatenate([group.targets for group in groups]), chunks.targets)
    assert len(list(chunks.groups())) == 1


def test_groups_start_and_stop_where_they_are_told():
    chunks = split(range(80), 8)
    assert [len(group) for group in chunks.groups(stops=[4])] == [4, 4, 2]
    assert [len(group) for group in chunks.groups(stops=[4, 3])] == [3, 1, 2, 2, 1, 1]
    rest = list(chunks.groups(start=5, stops=[4]))
    assert [len(group) for group in rest] == [3, 2] and rest[0].tokens[0, 0] == 40


def test_a_text_shorter_than_two_contexts_is_refused():
    with pytest.raises(UsageError, match="has 1023 tokens; a context of 512 needs at least 1024"):
        split(range(1023), 512)
    with pytest.raises(UsageError, match="has 8 tokens after skipping 9 chunks"):
        split(range(80), 8, first_chunk=9)
    with pytest.raises(UsageError, match="has 0 tokens"):
        split([], 8)


def test_windows_of_a_stride():
    chunks = windows(range(30), n_ctx=10, stride=4, bos_id=99)  # 12 tokens each, the last 4 scored
    assert chunks.text[:, 0].tolist() == [0, 4, 8, 12, 16] and chunks.n_ctx == 12
    assert chunks.targets.tolist() == [list(range(i, i + 4)) for i in (8, 12, 16, 20, 24)]
    assert (chunks.tokens[:, 0] == 99).all() and np.array_equal(chunks.tokens[:, 1:], chunks.text[:, 1:])
    hidden = chunks.text[..., None].astype(np.float32)
    assert (chunks.scored(hidden)[:][:, 0] + 1).astype(int).tolist() == chunks.targets.ravel().tolist()
    assert len(windows(range(30), 10, 4, n_chunks=2)) == 2
    # llama-perplexity leaves out a last window that ends with the text
    assert [len(windows(range(n), 10, 4)) for n in (13, 16, 17, 20, 21)] == [1, 1, 2, 2, 3]


def test_a_stride_needs_room():
    with pytest.raises(UsageError, match="a stride of 20 needs a context of more than 10, got 10"):
        windows(range(99), 10, 20)
    with pytest.raises(UsageError, match="takes windows of 12 and needs more than one"):
        windows(range(12), 10, 4)


def test_some_of_the_chunks():
    chunks = split(range(88), 8, first_chunk=1, bos_id=500)
    some = chunks[2:4]
    assert (len(some), some.number) == (2, 4) and some.text[0, 0] == 24 and some.tokens[0, 0] == 500

"""Experts that the text reached rarely or never, and weights under other names. Expectations are worked out by hand."""

import numpy as np

from quanttool.container import TensorInfo
from quanttool.ggml_types import BY_NAME
from quanttool.imatrix import Entry, Imatrix
from quanttool.imatrix.gaps import add_aliases, selected, shrink_experts


def imatrix_of(entry: Entry, chunk_size: int = 512) -> Imatrix:
    return Imatrix({"blk.0.ffn_up_exps.weight": entry}, ["t.txt"], 2, chunk_size)


def importance(entry: Entry, chunk_size: int = 512) -> np.ndarray:
    return shrink_experts(imatrix_of(entry, chunk_size))[0].importance("blk.0.ffn_up_exps.weight")


SUMS = np.array([[48.0, 16.0], [0.0, 0.0], [16.0, 48.0]])
COUNTS = np.array([16, 0, 16])  # the average over 32 rows is (2, 2)


def test_an_unseen_expert_gets_the_average_of_all_rows():
    assert importance(Entry(SUMS, COUNTS))[1].tolist() == [2.0, 2.0]


def test_as_many_rows_as_the_prior_meet_it_half_way():
    assert importance(Entry(SUMS, COUNTS))[0].tolist() == [2.5, 1.5]  # own mean (3, 1)


def test_many_rows_outweigh_the_prior():
    sums = SUMS * np.array([[1000], [1], [1000]])
    np.testing.assert_allclose(importance(Entry(sums, COUNTS * 1000))[0], [3, 1], rtol=2e-3)


def test_in_legacy_files_only_unseen_experts_change():
    got = importance(Entry(SUMS, COUNTS), chunk_size=0)
    assert got.tolist() == [[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]]


def test_dense_weights_and_tensors_without_any_row_stay():
    for entry in (Entry(SUMS[:1], COUNTS[:1]), Entry(SUMS * 0, COUNTS * 0)):
        shrunk, unseen = shrink_experts(imatrix_of(entry))
        assert shrunk.entries["blk.0.ffn_up_exps.weight"] is entry and unseen == 0
    assert shrink_experts(imatrix_of(Entry(SUMS, COUNTS)))[1] == 1


def test_weights_with_the_same_input_lend_each_other_their_entry():
    entry, other = Entry(SUMS, COUNTS), Entry(SUMS[:1], COUNTS[:1])
    known = Imatrix({"blk.0.ffn_up_exps.weight": entry, "blk.1.ffn_up.weight": other, "blk.1.ffn_gate.weight": entry})
    names = [
        "blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_up_exps.weight", "blk.0.ffn_down_exps.weight",
        "blk.2.ffn_gate.weight", "blk.1.ffn_gate.weight", "ffn_gate.weight",
    ]  # fmt: skip
    got = add_aliases(known, [TensorInfo(name, BY_NAME["F32"], (2, 4, 3)) for name in names]).entries
    assert got["blk.0.ffn_gate_exps.weight"] is entry and got["blk.0.ffn_gate_up_exps.weight"] is entry
    assert got["blk.1.ffn_gate.weight"] is entry and len(got) == 5


def test_split_latent_attention_lends_its_channels():
    """Two heads of two channels each: (1, 3) and (5, 7), whose mean is (3, 5)."""
    heads = Entry(np.array([[1.0, 3.0, 5.0, 7.0]]), np.array([10]))
    whole = Entry(np.array([[2.0, 4.0]]), np.array([10]))
    known = Imatrix({"blk.0.attn_v_b.weight": heads, "blk.1.attn_kv_b.weight": whole})
    shapes = {"blk.0.attn_kv_b.weight": (2, 8), "blk.1.attn_v_b.weight": (2, 4, 3), "blk.1.attn_k_b.weight": (4, 2, 3)}
    imatrix = add_aliases(known, [TensorInfo(name, BY_NAME["F32"], ne) for name, ne in shapes.items()])
    np.testing.assert_allclose(imatrix.importance("blk.0.attn_kv_b.weight", 2), [[0.3, 0.5]])
    np.testing.assert_allclose(imatrix.importance("blk.1.attn_v_b.weight", 2), [[0.2, 0.4]] * 3)
    assert "blk.1.attn_k_b.weight" not in imatrix.entries  # what it reads is another thing


def test_selection_is_by_pieces_of_names():
    known = Imatrix({f"blk.{i}.{kind}.weight": Entry(SUMS, COUNTS) for i in (0, 10) for kind in ("attn_q", "ffn_up")})
    assert list(selected(known, include=("attn_q", "blk.10")).entries) == [
        "blk.0.attn_q.weight", "blk.10.attn_q.weight", "blk.10.ffn_up.weight",
    ]  # fmt: skip
    assert list(selected(known, exclude=("attn", "k.0")).entries) == ["blk.10.ffn_up.weight"]

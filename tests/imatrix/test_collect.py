"""Collecting from a forward pass: what is recorded, how exactly, and what stops it."""

import numpy as np
import pytest

from quanttool.container import TensorInfo
from quanttool.errors import ImatrixError
from quanttool.evaluate import split
from quanttool.ggml_types import ggml_type
from quanttool.imatrix import load
from quanttool.imatrix.collect import Collector
from quanttool.models import load_model
from quanttool.tokenizer import load_tokenizer
from tests import naive_evaluate as naive
from tests.models import tiny

F32 = ggml_type("F32")
TENSORS = {
    "blk.0.attn_q.weight": TensorInfo("blk.0.attn_q.weight", F32, (5, 8)),
    "blk.0.ffn_up_exps.weight": TensorInfo("blk.0.ffn_up_exps.weight", F32, (5, 8, 3)),
}


def rows(n, seed=0, n_cols=5):
    return np.random.default_rng(seed).standard_normal((n, n_cols)).astype(np.float32) * 10


def test_sums_over_several_batches():
    collector = Collector(TENSORS, n_ctx=8)
    for seed in (1, 2):
        collector("blk.0.attn_q.weight", rows(16, seed))
    result = collector.imatrix(["text"], 4)
    entry = result.entries["blk.0.attn_q.weight"]
    expected = naive.sums_of_squares(np.concatenate([rows(16, 1), rows(16, 2)]))
    np.testing.assert_allclose(entry.sums_of_squares, expected[None], rtol=1e-14)
    assert entry.counts.tolist() == [32]
    assert (result.datasets, result.chunk_count, result.chunk_size) == (["text"], 4, 8)


def test_experts_each_for_itself():
    collector = Collector(TENSORS, n_ctx=8)
    collector("blk.0.ffn_up_exps.weight", rows(3, 1), 2)
    collector("blk.0.ffn_up_exps.weight", rows(4, 2), 0)
    collector("blk.0.ffn_up_exps.weight", rows(1, 3), 2)
    entry = collector.entries["blk.0.ffn_up_exps.weight"]
    assert entry.counts.tolist() == [4, 0, 4]
    expected = [naive.sums_of_squares(rows(4, 2)), np.zeros(5), naive.sums_of_squares(np.r_[rows(3, 1), rows(1, 3)])]
    np.testing.assert_allclose(entry.sums_of_squares, expected, rtol=1e-14)


def test_rows_may_lie_anywhere_in_memory():
    collector = Collector(TENSORS, n_ctx=8)
    collector("blk.0.attn_q.weight", np.asfortranarray(rows(16)))
    np.testing.assert_allclose(
        collector.entries["blk.0.attn_q.weight"].sums_of_squares[0], naive.sums_of_squares(rows(16)), rtol=1e-14
    )


def test_signed_sums():
    collector = Collector(TENSORS, n_ctx=8)
    for seed in (1, 2):
        collector("blk.0.attn_q.weight", rows(16, seed))
    expected = np.concatenate([rows(16, 1), rows(16, 2)]).astype(np.float64).sum(0)
    np.testing.assert_allclose(collector.entries["blk.0.attn_q.weight"].sums, expected[None], rtol=1e-12, atol=1e-12)


def test_slices_that_are_no_experts_have_one_count():
    """MLA's attn_k_b: llama.cpp puts its heads side by side."""
    name = "blk.0.attn_k_b.weight"
    collector = Collector({name: TensorInfo(name, F32, (5, 8, 2))}, n_ctx=8)
    for head in (0, 1):
        collector(name, rows(6, head), head)
    entry = collector.imatrix([], 1).entries[name]
    assert entry.counts.tolist() == [6]
    expected = np.concatenate([naive.sums_of_squares(rows(6, head)) for head in (0, 1)])
    np.testing.assert_allclose(entry.sums_of_squares, expected[None], rtol=1e-14)


def test_sums_do_not_stop_growing():
    """After 2^24 ones a float32 sum stays where it is."""
    collector = Collector(TENSORS, n_ctx=8)
    collector("blk.0.attn_q.weight", np.zeros((1, 5), np.float32))
    entry = collector.entries["blk.0.attn_q.weight"]
    entry.sums_of_squares[:] = 2.0**24
    collector("blk.0.attn_q.weight", np.ones((7, 5), np.float32))
    assert (entry.sums_of_squares == 2**24 + 7).all()


def test_only_weights_of_blocks_unless_asked():
    collector = Collector(TENSORS, n_ctx=8)
    collector("output.weight", rows(4))
    assert not collector.entries
    collector.add("output.weight", rows(4))
    assert collector.entries["output.weight"].counts.tolist() == [4]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_tensor_and_chunk(value):
    collector = Collector(TENSORS, n_ctx=8)
    collector("blk.0.attn_q.weight", rows(16))
    bad = rows(16)
    bad[9, 3] = value
    message = rf"blk\.0\.attn_q\.weight: input channel 3 is {value} in chunk 4; .*Nothing was saved"
    with pytest.raises(ImatrixError, match=message):
        collector("blk.0.attn_q.weight", bad)
    bad = rows(2)
    bad[1, 1] = value
    with pytest.raises(ImatrixError, match=r"ffn_up_exps\.weight: input channel 1 is .* in chunk 3-4 \(expert 1\)"):
        collector("blk.0.ffn_up_exps.weight", bad, 1)


def test_a_model_gives_every_weight_of_its_blocks(tmp_path):
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    collector = Collector(model.file.tensors, 20)
    tokens = np.random.default_rng(5).integers(0, tiny.N_VOCAB, (3, 20))
    model.hidden_states(tokens, collector)
    matrices = {name for name, info in model.file.tensors.items() if name.startswith("blk.") and len(info.ne) == 2}
    assert collector.entries.keys() == matrices
    assert all(entry.counts.tolist() == [60] for entry in collector.entries.values())
    shared_input = [collector.entries[f"blk.1.attn_{x}.weight"].sums_of_squares for x in "qkv"]
    assert np.array_equal(shared_input[0], shared_input[1]) and np.array_equal(shared_input[0], shared_input[2])


def test_llama_imatrix_figures(shared, smollm2_768):
    """The first 4 chunks of wiki.test.raw; llama-imatrix sums in float32, hence the tolerance."""
    expected = load(shared / "golden" / "imatrix" / "s768-4chunks.gguf")
    tokenizer, model = load_tokenizer(smollm2_768), load_model(smollm2_768)
    text = (shared / "data" / "wiki.test.raw").read_text()[:20000]
    chunks = split(tokenizer.encode(text), 512, 4, bos_id=tokenizer.bos_id if tokenizer.add_bos else None)
    collector = Collector(model.file.tensors, 512)
    model.hidden_states(chunks.tokens, collector)
    assert collector.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        found = collector.entries[name]
        assert np.array_equal(found.counts, entry.counts)
        np.testing.assert_allclose(found.sums_of_squares, entry.sums_of_squares, rtol=1e-4, err_msg=name)

"""Merging by rows: what comes out, and what is refused."""

import numpy as np
import pytest

from quanttool.errors import ImatrixError
from quanttool.imatrix import Entry, Imatrix, load, merge, save


def imatrix(seed, counts=(64,), n_cols=5, name="blk.0.a.weight", chunks=2, signed=True, **extra):
    rng = np.random.default_rng(seed)
    shape = len(counts), n_cols
    sums = rng.standard_normal(shape) if signed else None
    entry = Entry(rng.random(shape) * 100, np.array(counts), sums)
    return Imatrix({name: entry}, [f"text {seed}"], chunks, 32, **extra)


def test_sums_and_counts_add_up():
    a, b, c = imatrix(1), imatrix(2, counts=(96,), chunks=3), imatrix(3)
    merged = merge([a, b, c], ["a", "b", "c"])
    entries = [part.entries["blk.0.a.weight"] for part in (a, b, c)]
    found = merged.entries["blk.0.a.weight"]
    assert np.array_equal(found.sums_of_squares, sum(e.sums_of_squares for e in entries))
    assert np.array_equal(found.sums, sum(e.sums for e in entries))
    assert found.counts.tolist() == [224]
    assert (merged.chunk_count, merged.chunk_size) == (7, 32)
    assert merged.datasets == ["text 1", "text 2", "text 3"]
    assert a.entries["blk.0.a.weight"].counts.tolist() == [64]  # the parts stay as they are


def test_a_part_counts_by_its_rows_and_not_by_its_file():
    one, three = imatrix(1, counts=(100,)), imatrix(2, counts=(300,))
    merged = merge([one, three], ["a", "b"]).importance("blk.0.a.weight")
    expected = (one.importance("blk.0.a.weight") + 3 * three.importance("blk.0.a.weight")) / 4
    np.testing.assert_allclose(merged, expected, rtol=1e-6)


def test_weights_that_only_one_part_has():
    a = imatrix(1)
    b = imatrix(2)
    b.entries["output.weight"] = Entry(np.ones((1, 5)), np.ones(1, np.int64))
    assert merge([a, b], ["a", "b"]).entries.keys() == {"blk.0.a.weight", "output.weight"}


def test_signed_sums_only_where_all_have_them():
    assert merge([imatrix(1), imatrix(2, signed=False)], "ab").entries["blk.0.a.weight"].sums is None


def test_provenance_where_all_agree():
    a = imatrix(1, provenance={"model": "m", "options": "-c 32"})
    b = imatrix(2, provenance={"model": "m", "options": "-c 64"})
    assert merge([a, b], "ab").provenance == {"model": "m"}


def test_another_chunk_size_is_counted_in_tokens():
    b = imatrix(2, counts=(128,), chunks=1)
    b.chunk_size = 128
    merged = merge([imatrix(1), b], "ab")
    assert (merged.chunk_count, merged.chunk_size) == (6, 32)


def test_one_count_for_all_experts_is_given_to_each():
    """What a legacy file knows of a mixture of experts."""
    experts = imatrix(1, counts=(10, 0, 54), n_cols=5)
    flat = imatrix(2, counts=(64,), n_cols=15)
    merged = merge([flat, experts], ["x.dat", "x.gguf"]).entries["blk.0.a.weight"]
    assert merged.counts.tolist() == [74, 64, 118]
    expected = flat.entries["blk.0.a.weight"].sums_of_squares.reshape(3, 5)
    expected = expected + experts.entries["blk.0.a.weight"].sums_of_squares
    assert np.array_equal(merged.sums_of_squares, expected)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (imatrix(2, n_cols=6), "b: blk.0.a.weight has 6 channels, 5 in the files before"),
        (imatrix(2, name="blk.9.a.weight"), "b: has no weight in common with a .one has blk.9.a.weight"),
        (Imatrix({"blk.0.a.weight": Entry(np.ones((1, 5)), np.ones(1, np.int64))}), "b: its counts are calls"),
    ],
)
def test_what_does_not_fit_is_refused(other, message):
    with pytest.raises(ImatrixError, match=message):
        merge([imatrix(1), other], ["a", "b"])


def test_different_numbers_of_experts():
    with pytest.raises(ImatrixError, match=r"b: blk\.0\.a\.weight has 6 experts, 3 in the files before"):
        merge([imatrix(1, counts=(1, 1, 1), n_cols=4), imatrix(2, counts=(1,) * 6, n_cols=2)], ["a", "b"])


def test_merged_halves_are_stored_as_the_whole(tmp_path):
    """Files hold float32, so halves that went through files agree with the whole to its rounding."""
    a, b = imatrix(1), imatrix(2)
    for part, name in ((a, "a"), (b, "b")):
        save(part, tmp_path / name)
    whole = merge([a, b], "ab").entries["blk.0.a.weight"]
    files = merge([load(tmp_path / "a"), load(tmp_path / "b")], "ab").entries["blk.0.a.weight"]
    np.testing.assert_allclose(files.sums_of_squares, whole.sums_of_squares, rtol=2e-7)
    np.testing.assert_allclose(files.sums, whole.sums, atol=1e-6)

"""Both imatrix files: bytes of llama-imatrix, hostile input, and what llama-quantize makes of them."""

import struct

import gguf
import numpy as np
import pytest

from quanttool.errors import FileFormatError, ImatrixError, UsageError
from quanttool.imatrix import Entry, Imatrix, load, save


def example() -> Imatrix:
    """A dense tensor, and three experts of which the second was never used."""
    rng = np.random.default_rng(3)
    experts = rng.random((3, 4)) * 100
    experts[1] = 0
    return Imatrix(
        {
            "blk.10.ffn_up_exps.weight": Entry(experts, np.array([700, 0, 324])),
            "blk.0.attn_q.weight": Entry(rng.random((1, 5)) * 1000, np.array([1024])),
        },
        datasets=["a.txt", "b.txt"],
        chunk_count=2,
        chunk_size=512,
    )


def dat_bytes(entries, trailer=(2, b"a.txt")) -> bytes:
    """The legacy file written out by hand: entries are (name, ncall, values)."""
    out = struct.pack("<i", len(entries))
    for name, ncall, values in entries:
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", ncall, len(values))
        out += struct.pack(f"<{len(values)}f", *values)
    return out + (struct.pack("<ii", trailer[0], len(trailer[1])) + trailer[1] if trailer else b"")


def assert_same(a: Imatrix, b: Imatrix):
    assert (a.datasets, a.chunk_count, a.chunk_size) == (b.datasets, b.chunk_count, b.chunk_size)
    assert sorted(a.entries) == sorted(b.entries)
    for name in a.entries:
        assert np.array_equal(a.entries[name].sums_of_squares, b.entries[name].sums_of_squares)
        assert np.array_equal(a.entries[name].counts, b.entries[name].counts)


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_llama_imatrix_file_is_reproduced_byte_for_byte(shared, tmp_path, suffix):
    data = load(shared / "golden/imatrix/s768-4chunks.gguf")
    save(data, tmp_path / "out", suffix)
    assert (tmp_path / "out").read_bytes() == (shared / f"golden/imatrix/s768-4chunks.{suffix}").read_bytes()


def test_llama_imatrix_dat_is_read_back(shared, tmp_path):
    path = shared / "golden/imatrix/s768-4chunks.dat"
    data = load(path)
    assert (len(data.entries), data.chunk_count, data.datasets) == (210, 4, ["wiki.test.raw"])
    save(data, tmp_path / "out.dat", "dat")
    assert (tmp_path / "out.dat").read_bytes() == path.read_bytes()


def test_gguf_as_another_program_reads_it(tmp_path):
    save(example(), tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert [t.name for t in reader.tensors] == [
        "blk.0.attn_q.weight.in_sum2",
        "blk.0.attn_q.weight.counts",
        "blk.10.ffn_up_exps.weight.in_sum2",
        "blk.10.ffn_up_exps.weight.counts",
    ]
    assert [t.shape.tolist() for t in reader.tensors] == [[5], [1], [4, 3], [1, 3]]
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a.txt", "b.txt"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 512,
    }
    assert np.array_equal(reader.tensors[3].data.ravel(), np.float32([700, 0, 324]))


def test_gguf_round_trip_and_deterministic_bytes(tmp_path):
    save(example(), tmp_path / "a")
    first = load(tmp_path / "a")
    first.entries = dict(reversed(first.entries.items()))
    save(first, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert_same(first, load(tmp_path / "b"))


def test_dat_as_written_by_hand(tmp_path):
    path = tmp_path / "x.dat"
    path.write_bytes(dat_bytes([(b"blk.0.a.weight", 3, [1.5, 3.0]), (b"blk.0.b.weight", 0, [2.0])]))
    data = load(path)
    assert np.array_equal(data.importance("blk.0.a.weight"), np.float32([[0.5, 1.0]]))
    assert np.array_equal(data.importance("blk.0.b.weight"), np.float32([[2.0]]))  # ncall 0: values as they are
    assert (data.chunk_count, data.datasets) == (2, ["a.txt"])
    path.write_bytes(dat_bytes([(b"blk.0.a.weight", 3, [1.5, 3.0])], trailer=None))
    assert load(path).chunk_count == 0


def test_dat_gives_unused_experts_weight_one(tmp_path):
    data = example()
    save(data, tmp_path / "x.dat", "dat")
    # ncall counts chunks, rounded up: 700 rows of chunks of 512 are 2
    used = data.entries["blk.10.ffn_up_exps.weight"].sums_of_squares.astype(np.float32)
    mean = np.stack([used[0] / np.float32(700), np.ones(4, np.float32), used[2] / np.float32(324)])
    dense = data.entries["blk.0.attn_q.weight"].sums_of_squares.astype(np.float32)[0] / np.float32(1024)
    expected = dat_bytes(
        [
            (b"blk.0.attn_q.weight", 2, (dense * np.float32(2)).tolist()),
            (b"blk.10.ffn_up_exps.weight", 2, (mean * np.float32(2)).ravel().tolist()),
        ],
        trailer=(2, b"b.txt"),
    )
    assert (tmp_path / "x.dat").read_bytes() == expected


def test_dat_leaves_out_entries_without_any_data(tmp_path):
    data = example()
    data.entries["blk.1.ffn_up_exps.weight"] = Entry(np.zeros((2, 4)), np.zeros(2, np.int64))
    save(data, tmp_path / "x.dat", "dat")
    assert "blk.1.ffn_up_exps.weight" not in load(tmp_path / "x.dat").entries


def test_importance_by_row_width():
    data = example()
    flat = data.importance("blk.10.ffn_up_exps.weight").ravel()
    assert np.array_equal(flat[4:8], np.ones(4, np.float32))  # never reached
    assert data.importance("blk.10.ffn_up_exps.weight", 4).dtype == np.float32
    assert np.array_equal(data.importance("blk.10.ffn_up_exps.weight", 2), flat.reshape(6, 2))
    assert data.importance("blk.3.attn_q.weight") is None
    with pytest.raises(ImatrixError, match=r"blk\.0\.attn_q\.weight: the imatrix has 5 channels.* 4 wide"):
        data.importance("blk.0.attn_q.weight", 4)


def test_legacy_data_becomes_gguf_once_the_chunk_size_is_said(tmp_path):
    save(example(), tmp_path / "x.dat", "dat")
    legacy = load(tmp_path / "x.dat")
    with pytest.raises(ImatrixError, match="unknown size"):
        save(legacy, tmp_path / "y.gguf")
    save(legacy.in_rows(512), tmp_path / "y.gguf")
    back = load(tmp_path / "y.gguf")
    assert back.entries["blk.0.attn_q.weight"].counts.tolist() == [1024]
    assert np.array_equal(back.importance("blk.0.attn_q.weight"), legacy.importance("blk.0.attn_q.weight"))


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_every_truncation_is_refused(tmp_path, suffix):
    save(example(), tmp_path / "whole", suffix)
    whole = (tmp_path / "whole").read_bytes()
    whole_trailer = 4 + 4 + len(b"b.txt")
    allowed = {len(whole) - whole_trailer, len(whole) - whole_trailer + 4} if suffix == "dat" else set()
    padding = 20 if suffix == "gguf" else 0  # behind the last tensor's 12 bytes
    for size in range(len(whole) - padding):
        (tmp_path / "cut").write_bytes(whole[:size])
        if size not in allowed:
            with pytest.raises(FileFormatError):
                load(tmp_path / "cut")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"some text, no imatrix at all, " * 10,
        struct.pack("<i", 2**31 - 1) + bytes(100),
        struct.pack("<i", -5) + bytes(100),
        struct.pack("<iii", 1, 2**31 - 1, 0) + bytes(100),
        struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, -1) + bytes(100),
        struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, 2**30) + bytes(100),
        dat_bytes([(b"x", 1, [1.0]), (b"x", 1, [1.0])]),
        dat_bytes([(b"", 1, [1.0])]),
        dat_bytes([(b"x", 1, [1.0])], trailer=None) + struct.pack("<ii", 1, -1),
    ],
)
def test_hostile_dat_is_refused(tmp_path, raw):
    path = tmp_path / "x.dat"
    path.write_bytes(raw)
    with pytest.raises(FileFormatError, match=r"x\.dat"):
        load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_impossible_numbers_are_refused(tmp_path, value):
    path = tmp_path / "x.dat"
    path.write_bytes(dat_bytes([(b"blk.0.a.weight", 1, [1.0, value])]))
    with pytest.raises(ImatrixError, match=r"blk\.0\.a\.weight: the sum of squares of channel 1"):
        load(path)


def gguf_file(path, tensors, **keys):
    """A GGUF by the gguf library, keys as in an imatrix unless overridden (None: left out)."""
    writer = gguf.GGUFWriter(path, "x")
    known = {"imatrix.datasets": ["t"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 8} | keys
    for key, value in known.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SUMS, COUNTS = np.float32([[1, 2], [3, 4]]), np.float32([[1], [2]])


@pytest.mark.parametrize(
    ("tensors", "keys", "message"),
    [
        ({"token_embd.weight": SUMS}, {}, "no importance data"),
        ({"a.in_sum2": SUMS}, {}, r"a\.counts is missing"),
        ({"a.in_sum2": SUMS, "a.counts": COUNTS, "b.counts": COUNTS}, {}, "b has counts but no sums"),
        ({"a.in_sum2": SUMS, "a.counts": np.float32([1, 2, 3])}, {}, "4 sums and 3 counts"),
        ({"a.in_sum2": SUMS.astype(np.float16), "a.counts": COUNTS}, {}, "F16, expected F32"),
        ({"a.in_sum2": SUMS, "a.counts": -COUNTS}, {}, "impossible count"),
        ({"a.in_sum2": SUMS, "a.counts": COUNTS * np.nan}, {}, "impossible count"),
        ({"a.in_sum2": SUMS, "a.counts": COUNTS}, {"imatrix.chunk_size": None}, r"imatrix\.chunk_size is None"),
        ({"a.in_sum2": SUMS, "a.counts": COUNTS}, {"imatrix.chunk_size": 0}, r"imatrix\.chunk_size is 0"),
        ({"a.in_sum2": SUMS, "a.counts": COUNTS}, {"imatrix.datasets": None}, r"imatrix\.datasets is missing"),
        ({"a.in_sum2": SUMS, "a.counts": COUNTS}, {"imatrix.chunk_count": [1]}, r"imatrix\.chunk_count is"),
    ],
)
def test_gguf_that_is_no_imatrix_is_refused(tmp_path, tensors, keys, message):
    path = gguf_file(tmp_path / "x.gguf", tensors, **keys)
    with pytest.raises(FileFormatError, match=message):
        load(path)


def test_gguf_with_unknown_extras_is_accepted(tmp_path):
    path = gguf_file(tmp_path / "x.gguf", {"a.in_sum2": SUMS, "a.counts": COUNTS, "a.more": SUMS}, **{"other.key": 1})
    assert np.array_equal(load(path).importance("a"), np.float32([[1, 2], [1.5, 2]]))


def test_missing_file_unknown_format_and_nothing_to_write(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "absent.gguf")
    with pytest.raises(UsageError, match="unknown imatrix format 'csv'"):
        save(example(), tmp_path / "x", "csv")
    with pytest.raises(ImatrixError, match="no importance data"):
        save(Imatrix(chunk_size=8), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_signed_sums_and_provenance_stand_behind_what_llama_cpp_writes(tmp_path):
    plain, more = example(), example()
    for entry in more.entries.values():
        entry.sums = entry.sums_of_squares - 50
    more.provenance = {"model": "m", "text_sha256": "00"}
    save(plain, tmp_path / "plain")
    save(more, tmp_path / "more")
    back = load(tmp_path / "more")
    assert back.provenance == more.provenance
    for name, entry in more.entries.items():
        assert np.array_equal(back.entries[name].sums, entry.sums.astype(np.float32))
    readers = [gguf.GGUFReader(tmp_path / name) for name in ("plain", "more")]
    names = [[tensor.name for tensor in reader.tensors] for reader in readers]
    assert names[1] == [*names[0], "blk.0.attn_q.weight.in_sum", "blk.10.ffn_up_exps.weight.in_sum"]
    keys = [list(reader.fields)[3:] for reader in readers]
    assert keys[1][: len(keys[0])] == keys[0]
    assert keys[1][len(keys[0]) :] == ["quanttool.imatrix.model", "quanttool.imatrix.text_sha256"]


def test_signed_sums_that_do_not_fit_are_refused(tmp_path):
    path = gguf_file(tmp_path / "x.gguf", {"a.in_sum2": SUMS, "a.counts": COUNTS, "a.in_sum": COUNTS})
    with pytest.raises(FileFormatError, match=r"a\.in_sum does not fit a"):
        load(path)


def test_a_dat_of_unsorted_names_counts_batches(tmp_path):
    """ik_llama.cpp and old programs write a hash map's order, and count evaluations of at most 512 tokens."""
    entries = [(b"blk.1.a.weight", 8, [8.0]), (b"blk.0.a.weight", 8, [16.0])]
    for batches, order in ((True, entries), (False, entries[::-1])):
        path = tmp_path / "x.dat"
        path.write_bytes(dat_bytes(order))
        data = load(path)
        assert data.calls_are_batches == batches
        assert data.in_rows(2048).entries["blk.0.a.weight"].counts.tolist() == [8 * (512 if batches else 2048)]
        assert data.in_rows(2048).chunk_count == (2 if batches else 8)
        assert data.in_rows(256).entries["blk.0.a.weight"].counts.tolist() == [8 * 256]
        assert data.in_rows(2048).importance("blk.0.a.weight") == 2


def test_a_signalling_nan_is_an_error_and_no_warning(tmp_path, recwarn):
    data = bytearray(dat_bytes([(b"blk.0.a.weight", 1, [1.0, 2.0])]))
    at = data.index(struct.pack("<f", 2.0))
    data[at : at + 4] = (0x7F800001).to_bytes(4, "little")
    (tmp_path / "x.dat").write_bytes(data)
    with pytest.raises(ImatrixError, match=r"blk\.0\.a\.weight: the sum of squares of channel 1 is nan"):
        load(tmp_path / "x.dat")
    assert not recwarn.list

"""What the forward pass promises beside its numbers: chunks, observers, progress, and errors that name their object."""

import numpy as np
import pytest

from quanttool.container import GGUFFile
from quanttool.errors import ModelError, UsageError
from quanttool.models import load_model
from quanttool.models.layers import GatedFFN
from quanttool.models.tensors import Tensors
from quanttool.parallel import use_threads
from tests.models import tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return load_model(tiny.write(tmp_path_factory.mktemp("model") / "llama.gguf", *tiny.llama()))


def tokens(n_chunks, n_ctx):
    return np.random.default_rng(5).integers(0, tiny.N_VOCAB, (n_chunks, n_ctx))


def test_chunks_are_independent_sequences_in_batches(llama, monkeypatch):
    chunks = tokens(5, 200)
    together = llama.hidden_states(chunks)  # through attention in batches of two
    monkeypatch.setattr(GatedFFN, "rows_per_batch", 200)
    np.testing.assert_allclose(llama.hidden_states(chunks), together, atol=1e-4)
    for chunk, hidden in zip(chunks, together, strict=True):
        np.testing.assert_allclose(llama.output_logits(hidden), llama.logits(chunk), atol=1e-4)


def test_long_sequences_are_attended_in_blocks(llama):
    """A token's hidden state depends on what precedes it, and on nothing that follows."""
    (sequence,) = tokens(1, 300)
    whole = llama.hidden_states(sequence[None])[0]
    np.testing.assert_allclose(llama.hidden_states(sequence[None, :130])[0], whole[:130], atol=1e-4)
    changed = sequence.copy()
    changed[140] = (changed[140] + 1) % tiny.N_VOCAB
    other = llama.hidden_states(changed[None])[0]
    assert np.abs(other[140:] - whole[140:]).max(-1).min() > 1e-3
    np.testing.assert_allclose(other[:140], whole[:140], atol=1e-4)


def test_progress_counts_batches_of_layers(llama, monkeypatch):
    monkeypatch.setattr(GatedFFN, "rows_per_batch", 200)
    steps = []
    llama.hidden_states(tokens(5, 200), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 16) for i in range(1, 17)]  # 2 layers of 3 batches through attention, 5 through the network


def test_observer_sees_the_rows_of_every_product(llama):
    seen = {}
    hidden = llama.hidden_states(tokens(2, 9), observer=lambda name, x, expert: seen.update({name: (x.copy(), expert)}))
    blocks = {name: info for name, info in llama.file.tensors.items() if name.startswith("blk.") and len(info.ne) == 2}
    assert seen.keys() == blocks.keys()
    for name, (x, expert) in seen.items():
        assert x.shape == (18, blocks[name].n_cols) and expert is None
    np.testing.assert_array_equal(seen["blk.0.attn_q.weight"][0], seen["blk.0.attn_v.weight"][0])
    llama.output_logits(hidden[0, :3], observer=lambda name, x, expert: seen.update({name: (x.copy(), expert)}))
    np.testing.assert_array_equal(seen["output.weight"][0], hidden[0, :3])


def test_a_model_in_several_files(llama, tmp_path):
    metadata, tensors = tiny.llama()
    names = list(tensors)
    for number, part in enumerate([names[:5], names[5:]]):
        split = {"split.no": number, "split.count": 2, "split.tensors.count": len(names)}
        path = tmp_path / f"llama-{number + 1:05d}-of-00002.gguf"
        tiny.write(path, {**metadata, **split}, {name: tensors[name] for name in part})
    (sequence,) = tokens(1, 10)
    np.testing.assert_array_equal(load_model(path).logits(sequence), llama.logits(sequence))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_observers_are_called_in_the_order_of_the_text(llama, threads):
    """... whatever the number of threads, so that sums of what they see are the same to the last bit."""
    chunks, seen = tokens(7, 256), []
    use_threads(threads)
    try:
        llama.hidden_states(chunks, observer=lambda name, x, expert: seen.append((name, x.copy())))
    finally:
        use_threads(None)
    rows = np.concatenate([x for name, x in seen if name == "blk.0.attn_q.weight"])
    one_by_one = []
    for chunk in chunks:
        llama.hidden_states(chunk[None], observer=lambda name, x, expert: one_by_one.append((name, x.copy())))
    expected = np.concatenate([x for name, x in one_by_one if name == "blk.0.attn_q.weight"])
    np.testing.assert_array_equal(rows, expected)


def test_tied_embeddings(tmp_path):
    metadata, tensors = tiny.llama()
    tied = {name: array for name, array in tensors.items() if name != "output.weight"}
    tied["token_embd.weight"] = tensors["output.weight"]
    untied = {**tied, "output.weight": tensors["output.weight"]}
    sequence = tokens(1, 10)[0]
    expected = load_model(tiny.write(tmp_path / "untied.gguf", metadata, untied)).logits(sequence)
    found = load_model(tiny.write(tmp_path / "tied.gguf", metadata, tied)).logits(sequence)
    np.testing.assert_array_equal(found, expected)


def test_tokens_outside_the_vocabulary(llama):
    with pytest.raises(UsageError, match="vocabulary of 128"):
        llama.logits([1, 128])
    with pytest.raises(UsageError, match="n_chunks, n_ctx"):
        llama.hidden_states([1, 2])


def broken(tmp_path, metadata=(), tensors=(), without=None):
    """The tiny llama with some metadata and tensors replaced, and one of them left out."""
    good_metadata, good_tensors = tiny.llama()
    metadata, tensors = {**good_metadata, **dict(metadata)}, {**good_tensors, **dict(tensors)}
    metadata.pop(without, None)
    tensors.pop(without, None)
    return tiny.write(tmp_path / "broken.gguf", metadata, tensors)


def test_unknown_architecture_lists_the_known_ones(tmp_path):
    with pytest.raises(ModelError, match=r"'mamba'; it knows .*llama.*quantize works") as error:
        load_model(broken(tmp_path, {"general.architecture": "mamba"}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["llama.block_count", "llama.attention.layer_norm_rms_epsilon"])
def test_missing_metadata(tmp_path, key):
    with pytest.raises(ModelError, match=f"{key} is missing"):
        load_model(broken(tmp_path, without=key))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", "two", "is 'two', expected a whole number"),
        ("llama.block_count", 0, "is 0, expected 1 or more"),
        ("llama.attention.head_count_kv", 3, "4 heads do not divide into 3"),
        ("llama.rope.dimension_count", 66, "an even number up to the head size 64"),
        ("llama.rope.freq_base", float("nan"), "expected a finite number"),
    ],
)
def test_odd_metadata(tmp_path, key, value, message):
    with pytest.raises(ModelError, match=message):
        load_model(broken(tmp_path, {key: value}))


def test_missing_tensor(tmp_path):
    with pytest.raises(ModelError, match=r"blk\.1\.attn_k\.weight is missing, expected with shape \[256, 128\]"):
        load_model(broken(tmp_path, without="blk.1.attn_k.weight"))


def test_wrong_shape(tmp_path):
    odd = {"blk.0.ffn_up.weight": np.zeros((10, 256), np.float32)}
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight has shape \[256, 10\], expected \[256, 384\]"):
        load_model(broken(tmp_path, tensors=odd))


def test_unknown_tensors_are_not_ignored(tmp_path):
    more = {f"blk.{i}.attn_q_norm.weight": np.ones(64, np.float32) for i in range(2)}
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q_norm\.weight and 1 more .* no part in .* llama"):
        load_model(broken(tmp_path, tensors=more))


def test_blocks_that_predict_further_tokens_are_left_out(tmp_path):
    metadata, tensors = tiny.llama()
    further = {name.replace("blk.1.", "blk.2."): array for name, array in tensors.items() if name.startswith("blk.1.")}
    further["blk.2.nextn.eh_proj.weight"] = np.ones((256, 512), np.float32)
    metadata |= {"llama.block_count": 3, "llama.nextn_predict_layers": 1}
    (sequence,) = tokens(1, 10)
    expected = load_model(tiny.write(tmp_path / "a.gguf", *tiny.llama())).logits(sequence)
    found = load_model(tiny.write(tmp_path / "b.gguf", metadata, {**tensors, **further})).logits(sequence)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["blk.1.attn_q.weight", "blk.1.ffn_norm.weight"])
def test_nan_names_the_damaged_tensor(tmp_path, name):
    weight = tiny.llama()[1][name].copy()
    weight[..., 17] = np.nan
    model = load_model(broken(tmp_path, tensors={name: weight}))
    with pytest.raises(ModelError, match=f"chunk 1 are not finite after layer 1: {name} holds NaN"):
        model.hidden_states(tokens(2, 8))


def test_nan_names_the_damaged_experts(tiny_models, tmp_path):
    path, name = tmp_path / "mixtral.gguf", "blk.1.ffn_down_exps.weight"
    path.write_bytes((tiny_models / "mixtral.gguf").read_bytes())
    file = GGUFFile(path)
    with path.open("r+b") as changed:
        changed.seek(file.data_start + file.tensors[name].offset)
        changed.write(np.full(file.tensors[name].n_values, np.inf, np.float32).tobytes())
    with pytest.raises(ModelError, match=f"chunk 1 are not finite after layer 1: {name} holds NaN"):
        load_model(path).hidden_states(tokens(2, 8))


@pytest.mark.parametrize("free, expected", [(1 << 30, ["blk.1."]), (4000, [])])
def test_the_next_layer_is_read_ahead_where_there_is_room_for_it(llama, monkeypatch, free, expected):
    read = []
    monkeypatch.setattr(Tensors, "read_ahead", lambda block: read.append(block.prefix))
    monkeypatch.setattr("quanttool.models.model.free_memory", lambda: free)
    llama.hidden_states(tokens(2, 8))
    assert read == expected


def test_nan_names_layer_and_chunk(tmp_path):
    embd = tiny.llama()[1]["token_embd.weight"].copy()
    embd[100, 3] = np.nan
    model = load_model(broken(tmp_path, tensors={"token_embd.weight": embd}))
    chunks = np.full((4, 8), 5)
    chunks[2, 6] = 100
    with pytest.raises(ModelError, match="chunk 3 are not finite after layer 0"):
        model.hidden_states(chunks)


def test_parts_of_the_output_are_columns_of_the_whole(llama):
    hidden = np.random.default_rng(3).standard_normal((5, llama.n_embd), dtype=np.float32)
    whole = llama.output_logits(hidden)
    parts = [llama.output_part(slice(*edges))(hidden) for edges in ((0, 64), (64, 128))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-6, atol=1e-5)

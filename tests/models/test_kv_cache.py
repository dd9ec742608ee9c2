"""Keys and values rounded as a quantized cache would hold them. The gguf library's quantizers are the oracle."""

import gguf
import numpy as np
import pytest

from quanttool.errors import ModelError, UsageError
from quanttool.models import KVCache, load_model
from tests.models import tiny, variants

ROWS = np.random.default_rng(3).standard_normal((2, 5, 3, 128)).astype(np.float32)  # [n_seq, n_ctx, n_head, head_size]


def naive_hadamard(n):
    """Entry (i, j) is negative where i and j have an odd number of bits in common."""
    return np.array([[(-1) ** (i & j).bit_count() for j in range(n)] for i in range(n)]) / np.sqrt(n)


def naive_rounded(rows, type_name, width=None):
    """Each head of each token by itself; rotated before and back after in blocks of `width`."""
    quantization_type = gguf.GGMLQuantizationType[type_name]
    turn = np.eye(rows.shape[-1])
    if width:
        turn = np.kron(np.eye(rows.shape[-1] // width), naive_hadamard(width))
    turned = (rows.astype(np.float64).reshape(-1, rows.shape[-1]) @ turn).astype(np.float32)
    stored = gguf.dequantize(gguf.quantize(turned, quantization_type), quantization_type)
    return (stored.astype(np.float64) @ turn).reshape(rows.shape)


@pytest.mark.parametrize("type_name", ["Q8_0", "Q5_1", "Q4_0"])
def test_quantized_keys_and_values(type_name):
    cache = KVCache(type_name, type_name)
    step = np.abs(ROWS).max() / 127  # where float32 turns a rotated value a little, a code may come out one off
    keys, values = cache.keys(ROWS), cache.values(ROWS)
    for found, width in ((keys, 128), (values, 64)):
        off = np.abs(found - naive_rounded(ROWS, type_name, width))
        assert off.max() < 40 * step and np.mean(off > 1e-5) < 0.02
    assert not np.array_equal(keys, values)
    plain = KVCache(type_name, type_name, rotate=False)
    np.testing.assert_array_equal(plain.keys(ROWS), naive_rounded(ROWS, type_name).astype(np.float32))
    np.testing.assert_array_equal(cache.shared(ROWS), plain.keys(ROWS))
    odd = np.ascontiguousarray(ROWS[..., :96])  # no multiple of 64: llama.cpp does not rotate
    np.testing.assert_array_equal(cache.values(odd), naive_rounded(odd, type_name).astype(np.float32))


def test_float_caches_are_not_rotated():
    assert KVCache().keys(ROWS) is ROWS
    np.testing.assert_array_equal(KVCache("F16", "F16").keys(ROWS), ROWS.astype(np.float16).astype(np.float32))


def seen_by_attention(model):
    """Keys and values of the first layer, as attention is given them."""
    seen, layer = [], model.layers[0].attn
    attend = layer.attend

    def watching(q, k, v, *args, **kwargs):
        seen.append((k.copy(), v.copy()))
        return attend(q, k, v, *args, **kwargs)

    layer.attend = watching
    model.hidden_states(np.arange(12, dtype=np.int32)[None])
    return seen[0]


def test_attention_is_given_what_the_cache_holds(tmp_path):
    path = tiny.write(tmp_path / "llama.gguf", *tiny.llama())
    k, v = seen_by_attention(load_model(path))
    cache = KVCache("Q8_0", "Q4_0")
    stored_k, stored_v = seen_by_attention(load_model(path, cache=cache))
    np.testing.assert_array_equal(stored_k, cache.keys(k))
    np.testing.assert_array_equal(stored_v, cache.values(v))


def test_latent_attention_stores_one_row_for_keys_and_values(shared, tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny_models", shared / "models" / "make_tiny_models.py")
    makers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(makers)
    variants.all_variants(makers)["deepseek2-yarn"]().write(tmp_path / "model.gguf")
    k, _ = seen_by_attention(load_model(tmp_path / "model.gguf"))
    stored_k, stored_v = seen_by_attention(load_model(tmp_path / "model.gguf", cache=KVCache("F16", "F16")))
    np.testing.assert_array_equal(stored_k, k.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(stored_v, stored_k[..., : stored_v.shape[-1]])
    with pytest.raises(UsageError, match="one cache in this model"):
        load_model(tmp_path / "model.gguf", cache=KVCache("F16", "F32"))


def test_types_that_cannot_hold_a_cache(tmp_path):
    for name in ("IQ2_XXS", "Q4_K_R4"):
        with pytest.raises(UsageError, match=f"{name} cannot hold a cache"):
            KVCache(name)
    path = tiny.write(tmp_path / "llama.gguf", *tiny.llama())
    with pytest.raises(ModelError, match="heads are 64 wide, a cache of Q4_K needs a multiple of 256"):
        load_model(path, cache=KVCache(type_v="Q4_K"))

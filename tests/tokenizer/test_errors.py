"""What a file without a usable tokenizer is told."""

import numpy as np
import pytest

from quanttool.errors import ModelError

GOOD = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": None}, r"tokenizer\.ggml\.model is missing.*known are bert, gemma4, gpt2, llama, t5, test"),
        ({"model": "rwkv"}, r"tokenizer\.ggml\.model is 'rwkv'.*known are bert, gemma4, gpt2, llama, t5, test"),
        ({"model": ["gpt2"]}, r"tokenizer\.ggml\.model is \['gpt2'\].*known are"),
        ({"pre": ["gpt-2"]}, r"tokenizer\.ggml\.pre is \['gpt-2'\].*known are"),
        (
            {"pre": "gpt-9"},
            r"tokenizer\.ggml\.pre is 'gpt-9', so text cannot be tokenized; known are .*\bgpt-2\b.*\bqwen2\b",
        ),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens: is missing"),
        ({"tokens": []}, r"tokenizer\.ggml\.tokens: is empty"),
        ({"tokens": "a"}, r"tokenizer\.ggml\.tokens: is not an array of strings"),
        ({"tokens": np.zeros(3, np.int32)}, r"tokenizer\.ggml\.tokens: is not an array of strings"),
        ({"tokens": ["a", "b", "a"]}, r"tokenizer\.ggml\.tokens: token 'a' appears twice"),
        ({"merges": None}, r"tokenizer\.ggml\.merges: is missing"),
        ({"merges": np.zeros(3, np.int32)}, r"tokenizer\.ggml\.merges: is not an array of strings"),
        ({"token_type": np.ones(2, np.int32)}, r"tokenizer\.ggml\.token_type: has 2 entries for 3 tokens"),
        ({"token_type": np.ones(4, np.int32)}, r"tokenizer\.ggml\.token_type: has 4 entries for 3 tokens"),
        ({"token_type": np.ones(3, np.float32)}, r"tokenizer\.ggml\.token_type: is not an array of int32"),
        ({"scores": np.ones(2, np.float32)}, r"tokenizer\.ggml\.scores: has 2 entries for 3 tokens"),
        ({"scores": ["a", "b", "c"]}, r"tokenizer\.ggml\.scores: is not an array of float32"),
        ({"add_bos_token": 1}, r"tokenizer\.ggml\.add_bos_token: is 1, expected true or false"),
        ({"add_bos_token": True, "pre": "glm4"}, r"tokenizer\.ggml\.bos_token_id: is missing"),
        ({"add_eos_token": True}, r"tokenizer\.ggml\.eos_token_id: is missing"),  # the default, 11, is no token
        ({"add_eos_token": True, "eos_token_id": 3}, r"tokenizer\.ggml\.eos_token_id: is missing"),
    ],
)
def test_message(tokenizer_of, keys, message):
    with pytest.raises(ModelError, match=message) as error:
        tokenizer_of(**{**GOOD, **keys})
    assert "\n" not in str(error.value)
    assert "vocabulary.gguf" in str(error.value)


def test_missing_pre_tokenizer_is_the_default_one(tokenizer_of):
    assert tokenizer_of(**{**GOOD, "pre": None}).encode("ab") == [2]
    assert tokenizer_of(**{**GOOD, "pre": ""}).encode("ab") == [2]


def test_a_damaged_character_map(tokenizer_of):
    keys = {"model": "t5", "tokens": ["<pad>", "</s>", "<unk>", "a"]}
    wild = np.frombuffer((8).to_bytes(4, "little") + bytes(range(1, 9)), np.uint8)
    with pytest.raises(ModelError, match=r"precompiled_charsmap: is damaged"):
        tokenizer_of(**keys, precompiled_charsmap=wild).encode("abc")
    with pytest.raises(ModelError, match=r"precompiled_charsmap: is damaged"):
        tokenizer_of(**keys, precompiled_charsmap=wild[:6]).encode("abc")


def test_empty_tokens_get_llama_cpps_names(tokenizer_of):
    tokenizer = tokenizer_of(model="gpt2", pre="gpt-2", tokens=["a", "", "\0b"], merges=[])
    assert tokenizer.decode([0, 1, 2]) == "a[EMPTY_1][EMPTY_2]"

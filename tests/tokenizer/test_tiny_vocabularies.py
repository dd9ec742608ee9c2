"""Two vocabularies small enough to follow by eye; the ids are llama-tokenize's."""

import numpy as np
import pytest

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

# Ids 0-2, then 256 bytes, then these from 259 on: (token, score, type).
SPM_PIECES = (
    *(("▁", -1, NORMAL), ("h", -2, NORMAL), ("e", -3, NORMAL), ("l", -4, NORMAL), ("o", -5, NORMAL)),
    *(("w", -6, NORMAL), ("r", -7, NORMAL), ("d", -8, NORMAL), ("ll", -0.5, NORMAL), ("he", -0.4, NORMAL)),
    *(("▁he", -0.3, NORMAL), ("llo", -0.7, NORMAL), ("▁hello", -0.8, NORMAL), ("lo", -0.6, NORMAL)),
    *(("▁▁", -0.9, NORMAL), ("or", -0.2, NORMAL), ("<tool>", 0, USER_DEFINED), ("\n\n", 0, USER_DEFINED)),
    *(("<|im_start|>", 0, CONTROL), ("é", -9, NORMAL)),
)
SPM_TOKENS = (
    *(("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL)),
    *((f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)),
    *SPM_PIECES,
)
SPM = {
    "model": "llama",
    "tokens": [token for token, _, _ in SPM_TOKENS],
    "scores": np.array([score for _, score, _ in SPM_TOKENS], np.float32),
    "token_type": np.array([kind for _, _, kind in SPM_TOKENS], np.int32),
}

# Ids 0-255 are the bytes in GPT-2's order ("!" first), 256-266 the merges in order.
BPE_MERGES = ["Ġ t", "h e", "Ġt he", "1 2", "Ċ Ċ", "Ã ©", "c a", "t s", "ca ts", "' s", "Ġ Ġ"]
BPE_TOKENS = [
    *(chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144))),
    *(merge.replace(" ", "") for merge in BPE_MERGES),
    *("12345", "<|end_of_text|>", "<note>", "<|im_start|>"),
]
BPE = {
    "model": "gpt2",
    "tokens": BPE_TOKENS,
    "merges": BPE_MERGES,
    "token_type": np.array([NORMAL] * 268 + [CONTROL, USER_DEFINED, NORMAL], np.int32),
}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [1]),
        ("hello", [1, 271]),
        ("hello world", [1, 271, 259, 264, 274, 262, 266]),
        ("  hello  hello", [1, 273, 271, 259, 271]),
        ("hellollo", [1, 271, 270]),
        ("<s>hello</s>", [1, 259, 63, 118, 65, 268, 270, 63, 50, 118, 65]),
        ("a<tool>hello<tool> hello", [1, 259, 100, 275, 271, 275, 259, 271]),
        ("hello\n\n\nhello\n", [1, 271, 276, 259, 13, 268, 270, 13]),
        ("héllo ☃", [1, 259, 260, 278, 270, 259, 229, 155, 134]),
    ],
)
def test_sentencepiece(tokenizer_of, text, ids):
    tokenizer = tokenizer_of(**SPM)
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids[1:]) == text


def test_sentencepiece_with_special_tokens_in_the_text(tokenizer_of):
    tokenizer = tokenizer_of(**SPM)
    assert tokenizer.encode("<s>hello</s>", parse_special=True) == [1, 1, 271, 2]
    assert tokenizer.encode("<|im_start|>hello<unk>", parse_special=True) == [1, 277, 271, 0]
    assert tokenizer.decode([277, 271, 0]) == "<|im_start|>hello<unk>"


def test_sentencepiece_without_space_prefix(tokenizer_of):
    tokenizer = tokenizer_of(**SPM, add_space_prefix=False)
    assert tokenizer.encode("hello") == [1, 268, 270]
    assert tokenizer.encode("a<tool>hello<tool> hello") == [1, 100, 275, 268, 270, 275, 271]
    assert tokenizer.encode("  hello  hello") == [1, 259, 271, 259, 271]


def test_sentencepiece_with_end_instead_of_begin(tokenizer_of):
    tokenizer = tokenizer_of(**SPM, add_bos_token=False, add_eos_token=True)
    assert (tokenizer.add_bos, tokenizer.add_eos, tokenizer.bos_id, tokenizer.eos_id) == (False, True, 1, 2)
    assert tokenizer.encode("hello") == [271, 2]
    assert tokenizer.encode("hello", add_special=False) == [271]
    assert tokenizer.encode("") == [2]


def test_sentencepiece_needs_a_token_for_every_byte(tokenizer_of):
    from quanttool.errors import ModelError

    without_bytes = {"model": "llama", "tokens": ["<unk>", "<s>", "</s>", "▁", "a"]}
    tokenizer = tokenizer_of(**without_bytes)
    assert tokenizer.encode("a a") == [1, 3, 4, 3, 4]
    with pytest.raises(ModelError, match=r"tokens: nothing stands for '☃'"):
        tokenizer.encode("☃")


@pytest.mark.parametrize(
    ("text", "gpt2", "smollm"),
    [
        ("", [], []),
        ("the cats", [83, 257, 220, 264], [83, 257, 220, 264]),
        (
            "the  cats' 12 123",
            [83, 257, 220, 220, 264, 6, 220, 259, 220, 259, 18],
            [83, 257, 220, 220, 264, 6, 220, 16, 17, 220, 16, 17, 18],
        ),
        ("12345", [259, 18, 19, 20], [16, 17, 18, 19, 20]),
        ("é\n\n\nthe's", [261, 260, 198, 83, 257, 265], [261, 260, 198, 83, 257, 265]),
        ("☃", [158, 246, 225], [158, 246, 225]),
    ],
)
def test_byte_level_bpe(tokenizer_of, text, gpt2, smollm):
    tokenizer = tokenizer_of(**BPE, pre="gpt-2")
    assert tokenizer.encode(text) == gpt2
    assert tokenizer.decode(gpt2) == text
    framed = tokenizer_of(**BPE, pre="smollm", add_bos_token=True, add_eos_token=True, eos_token_id=268)
    assert framed.encode(text) == [11, *smollm, 268]  # 11: what llama.cpp takes for BOS if the file names none


def test_byte_level_bpe_with_special_tokens_in_the_text(tokenizer_of):
    tokenizer = tokenizer_of(**BPE, pre="llama-bpe", bos_token_id=268)
    text = "<|end_of_text|>the<note> the<|im_start|>"
    im_start = [27, 91, 72, 76, 62, 82, 83, 64, 81, 83, 91, 29]  # an ordinary token here, so not looked for
    end_of_text = [27, 91, 68, 77, 67, 62, 78, 69, 62, 83, 68, 87, 83, 91, 29]
    assert tokenizer.encode(text) == [268, *end_of_text, 83, 257, 269, 258, *im_start]
    assert tokenizer.encode(text, parse_special=True) == [268, 268, 83, 257, 269, 258, *im_start]
    assert tokenizer.decode([268, 83, 257, 269]) == "<|end_of_text|>the<note>"


def test_byte_level_bpe_takes_whole_words_where_merges_are_ignored(tokenizer_of):
    # Llama 3 cuts digits in threes, so 12345 is never one word; "12" is, with or without merges.
    assert tokenizer_of(**BPE, pre="llama-bpe", bos_token_id=268).encode("12345") == [268, 259, 18, 19, 20]
    glm = tokenizer_of(**{**BPE, "merges": BPE_MERGES[:3]}, pre="glm4")
    assert glm.encode("cats 12") == [264, 220, 259]
    assert (glm.bos_id, glm.add_bos) == (None, False)


def test_attributes(tokenizer_of):
    tokenizer = tokenizer_of(**BPE, pre="gpt-2", eos_token_id=268)
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.eos_id) == (271, 11, 268)
    assert (tokenizer.add_bos, tokenizer.add_eos) == (False, False)

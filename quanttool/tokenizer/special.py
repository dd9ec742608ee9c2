"""Special tokens in text: which they are, and cutting text around them.

GGUF gives each token a type; llama.cpp then corrects types by the tokens' names, and so must we: a token that becomes
a control token is no longer seen in plain text. Source: llama.cpp src/llama-vocab.cpp llama_vocab::impl::load,
tokenizer_st_partition.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .vocabulary import TokenType, Vocabulary

# Made control tokens whatever their type.
_END_OF_GENERATION = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
}
# Key that may name the token -> names to look for where it does not; the first one present is made a control token.
_FILL_IN_THE_MIDDLE = {
    ("fim_pre", "prefix"): (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),
        *("<|code_prefix|>", "<|prefix|>"),
    ),
    ("fim_suf", "suffix"): (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
        *("<|code_suffix|>", "<|suffix|>"),
    ),
    ("fim_mid", "middle"): (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),
        *("<|code_middle|>", "<|middle|>"),
    ),
    ("fim_pad",): ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("fim_rep",): ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("fim_sep",): ("<|file_sep|>",),
}
# gpt-oss: always seen in text.
_HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")

_C_SPACES = " \t\n\v\f\r"  # isspace of C


@dataclass
class SpecialToken:
    """hidden: only seen in text when special tokens are asked for (control and unknown tokens)."""

    id: int
    text: str
    hidden: bool
    strip_left: bool = False
    strip_right: bool = False


def special_tokens(vocabulary: Vocabulary) -> list[SpecialToken]:
    """Every token that is cut out of text before the rest is tokenized, the longest first."""
    hidden = _hidden_by_type(vocabulary)
    hidden.update(dict.fromkeys(_control_by_name(vocabulary), True))
    _correct(hidden, vocabulary)
    tokens = [SpecialToken(id, vocabulary.tokens[id], is_hidden) for id, is_hidden in sorted(hidden.items())]
    _set_stripping(tokens, vocabulary)
    return sorted(tokens, key=lambda token: -len(token.text.encode("utf-8", "surrogateescape")))


def _hidden_by_type(vocabulary: Vocabulary) -> dict[int, bool]:
    hidden = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    return {id: hidden[kind] for id, kind in enumerate(vocabulary.types.tolist()) if kind in hidden}


def _control_by_name(vocabulary: Vocabulary) -> list[int]:
    names = [name for name in _END_OF_GENERATION if name in vocabulary.ids]
    for keys, candidates in _FILL_IN_THE_MIDDLE.items():
        if all(vocabulary.special_id(key) is None for key in keys):
            names += [name for name in candidates if name in vocabulary.ids][:1]
    return [vocabulary.ids[name] for name in names]


def _correct(hidden: dict[int, bool], vocabulary: Vocabulary) -> None:
    """Exceptions of single families: Harmony's markers and <|end|> are text, Gemma 4's </s> is an ordinary token."""
    ids = vocabulary.ids
    hidden.update({ids[name]: False for name in _HARMONY if name in ids})
    calls = "<|call|>" in ids or "<|calls|>" in ids
    if calls and "<|end|>" in ids and ("<|return|>" in ids or "<|flush|>" in ids):
        hidden[ids["<|end|>"]] = False
    if "</s>" in ids and "<|tool_response>" in ids:
        del hidden[ids["</s>"]]


def _set_stripping(tokens: list[SpecialToken], vocabulary: Vocabulary) -> None:
    """Tokens that swallow white space beside them; GGUF does not say which, so llama.cpp goes by the model's name."""
    name = str(vocabulary.metadata.get("general.name", "")).lower()
    architecture = str(vocabulary.metadata.get("general.architecture", ""))
    pre = str(vocabulary.get("pre", ""))
    masked = any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code"))
    masked = masked or any(part in architecture for part in ("nomic-bert-moe", "jina-bert-v3"))
    for token in tokens:
        if masked:
            token.strip_left = token.text == "<mask>"
        elif "phi-3" in name or "phi3" in name:
            token.strip_right = token.text not in ("<unk>", "<s>", "<|endoftext|>")
        elif "modern-bert" in name:
            token.strip_left = token.text == "[MASK]"


class SpecialSplitter:
    """Cuts text into special tokens and what lies between them."""

    def __init__(self, tokens: list[SpecialToken]):
        self.tokens = tokens

    def split(self, text: str, parse_special: bool) -> list[int | str]:
        """Token ids and stretches of text, in order. One token at a time over all of the text, the longest first."""
        parts: list[int | str] = [text] if text else []
        for token in self._present(text, parse_special):
            parts = [piece for part in parts for piece in _cut(part, token)]
        return parts

    def _present(self, text: str, parse_special: bool) -> Iterable[SpecialToken]:
        # Thousands of tokens share a few dozen beginnings, and hardly any is in the text.
        tokens = [token for token in self.tokens if parse_special or not token.hidden]
        beginnings = {beginning for beginning in {token.text[:4] for token in tokens} if beginning in text}
        return [token for token in tokens if token.text[:4] in beginnings and token.text in text]


def _cut(part: int | str, token: SpecialToken) -> list[int | str]:
    """The part itself if the token is not in it, else its pieces around the token."""
    if isinstance(part, int) or token.text not in part:
        return [part]
    pieces: list[int | str] = []
    start = 0
    while (found := part.find(token.text, start)) >= 0:
        left = part[start:found]
        if token.strip_left:
            left = left.rstrip(_C_SPACES)
        pieces += [left, token.id] if left else [token.id]
        start = found + len(token.text)
        while token.strip_right and start < len(part) and part[start] in _C_SPACES:
            start += 1
    return pieces + [part[start:]] if start < len(part) else pieces

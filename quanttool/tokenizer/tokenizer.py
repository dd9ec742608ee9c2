"""The tokenizer of a GGUF file: special tokens, the family's own algorithm, begin and end of sequence."""

import os
from collections.abc import Iterable
from typing import Protocol

from ..container import GGUFFile
from ..errors import ModelError
from .bpe import BPE
from .hash_chunks import HashChunks
from .pre_tokenizers import PRE_TOKENIZERS
from .special import SpecialSplitter, special_tokens
from .spm import SPM
from .ugm import UGM
from .vocabulary import Defaults, TokenType, Vocabulary
from .wpm import WPM


class Algorithm(Protocol):
    """What a family does with a stretch of text that holds no special token."""

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of text; after_special: it begins the text or follows a special token."""

    def spell(self, token: str) -> bytes:
        """The bytes that an ordinary token stands for."""


class Tokenizer:
    """Text to token ids and back, as llama.cpp does it.

    n_vocab: number of tokens. bos_id, eos_id: ids or None. add_bos, add_eos: whether `encode` adds them by itself.
    """

    def __init__(self, vocabulary: Vocabulary, algorithm: Algorithm):
        self._vocabulary, self._algorithm = vocabulary, algorithm
        self.n_vocab = len(vocabulary.tokens)
        self.bos_id, self.eos_id = vocabulary.bos, vocabulary.eos
        self.add_bos, self.add_eos = vocabulary.add_bos, vocabulary.add_eos
        self._begin = vocabulary.framing("bos", self.bos_id, self.add_bos)
        self._end = vocabulary.framing("eos", self.eos_id, self.add_eos)
        self._end += vocabulary.framing("seperator", vocabulary.sep, vocabulary.add_sep)
        specials = special_tokens(vocabulary)
        self._splitter = SpecialSplitter(specials)
        self._special_ids = {token.id for token in specials}

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Tokenizer":
        """Build the tokenizer from an open file's metadata.

        Raises ModelError: no tokenizer, an unknown one, or arrays that are missing or disagree.
        """
        model = file.metadata.get("tokenizer.ggml.model")
        if not isinstance(model, str) or model not in _FAMILIES:
            found = "is missing" if model is None else f"is {model!r}"
            known = f"known are {', '.join(sorted(_FAMILIES))}"
            raise ModelError(f"{file.path}: tokenizer.ggml.model {found}, so text cannot be tokenized; {known}")
        vocabulary, algorithm = _FAMILIES[model](file)
        return cls(vocabulary, algorithm)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        add_special: begin and end with BOS and EOS where the model wants them.
        parse_special: read the names of control tokens (`<|im_start|>`) in the text as these tokens.
        """
        ids = list(self._begin) if add_special else []
        after_special = True
        for part in self._splitter.split(text, parse_special):
            after_special, was_after_special = isinstance(part, int), after_special
            ids += [part] if after_special else self._algorithm.encode(part, was_after_special)
        return ids + self._end if add_special else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special tokens by their names; bytes that are not UTF-8 become U+FFFD.

        The inverse of `encode(text, add_special=False, parse_special=True)` where the vocabulary loses nothing.
        """
        pieces: list[bytes] = []
        after_special = True
        for id in ids:
            piece = self.piece(id)
            if after_special and self._vocabulary.add_space_prefix and id not in self._special_ids:
                piece = piece.removeprefix(b" ")
            pieces.append(piece)
            after_special = id in self._special_ids
        return b"".join(pieces).decode(errors="replace")

    def piece(self, id: int) -> bytes:
        """The bytes that a token stands for; of a special token, its name."""
        token = self._vocabulary.tokens[id]
        if id in self._special_ids:
            return token.encode("utf-8", "surrogateescape")
        if self._vocabulary.types[id] == TokenType.BYTE:
            return bytes([int(token[3:5], 16)])
        return self._algorithm.spell(token)


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer of the GGUF file at path."""
    return Tokenizer.from_gguf(GGUFFile(path))


def _gpt2(file: GGUFFile) -> tuple[Vocabulary, BPE]:
    pre = file.metadata.get("tokenizer.ggml.pre", "") or "default"
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        known = f"known are {', '.join(sorted(PRE_TOKENIZERS))}"
        raise ModelError(f"{file.path}: tokenizer.ggml.pre is {pre!r}, so text cannot be tokenized; {known}")
    rules = PRE_TOKENIZERS[pre]
    vocabulary = Vocabulary(file, Defaults(bos=rules.bos, eos=11, add_bos=rules.add_bos))
    vocabulary.add_bos |= rules.always_bos
    # Kimi K2 was first converted without merges: its words are tokens or single bytes.
    merges = [] if pre == "kimi-k2" and vocabulary.get("merges") is None else vocabulary.strings("merges")
    return vocabulary, BPE(vocabulary, merges, rules)


def _gemma4(file: GGUFFile) -> tuple[Vocabulary, BPE]:
    rules = PRE_TOKENIZERS["gemma4"]
    vocabulary = Vocabulary(file, Defaults())
    vocabulary.add_bos = True
    return vocabulary, BPE(vocabulary, vocabulary.strings("merges"), rules)


def _llama(file: GGUFFile) -> tuple[Vocabulary, SPM]:
    vocabulary = Vocabulary(file, Defaults(bos=1, eos=2, unk=0, add_bos=True, add_space_prefix=True))
    return vocabulary, SPM(vocabulary)


def _bert(file: GGUFFile) -> tuple[Vocabulary, WPM]:
    vocabulary = Vocabulary(file, Defaults(bos=101, unk=100, sep=102, add_bos=True))
    vocabulary.add_bos = vocabulary.add_sep = True  # whatever the flags say
    vocabulary.add_eos = False
    return vocabulary, WPM(vocabulary)


def _t5(file: GGUFFile) -> tuple[Vocabulary, UGM]:
    vocabulary = Vocabulary(file, Defaults(eos=1, unk=2, add_eos=True))
    return vocabulary, UGM(vocabulary)


def _test(file: GGUFFile) -> tuple[Vocabulary, HashChunks]:
    vocabulary = Vocabulary(file, Defaults())
    vocabulary.add_bos = vocabulary.add_eos = False
    return vocabulary, HashChunks(vocabulary)


_FAMILIES = {"gpt2": _gpt2, "gemma4": _gemma4, "llama": _llama, "bert": _bert, "t5": _t5, "test": _test}

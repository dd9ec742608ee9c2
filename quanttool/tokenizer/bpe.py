"""Byte-pair encoding (`tokenizer.ggml.model` = gpt2 or gemma4): words by regular expression, then merges by rank."""

from .merging import merge
from .pre_tokenizers import PreTokenizer
from .seams import Seams
from .splitting import split_words
from .vocabulary import SPACE, Vocabulary, byte_token
from .words import WordIds


def _gpt2_alphabet() -> dict[int, int]:
    """GPT-2's character for every byte: printable Latin-1 stands for itself, the rest moves to U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return dict(zip(printable + others, printable + list(range(0x100, 0x100 + len(others))), strict=True))


_BYTE_TO_CHARACTER = _gpt2_alphabet()
_CHARACTER_TO_BYTE = {chr(character): bytes([byte]) for byte, character in _BYTE_TO_CHARACTER.items()}


class BPE:
    """Tokenizes stretches of text without special tokens. merges: "left right" in order of rank.

    Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_bpe_session::tokenize.
    """

    def __init__(self, vocabulary: Vocabulary, merges: list[str], rules: PreTokenizer):
        self.ids, self.rules = vocabulary.ids, rules
        self.ranks = dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))  # the first of equals
        self.words = WordIds(self._encode_word)
        self.seams = None if rules.byte_symbols else Seams.of_merges(merges)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of text; what stands before it does not matter here."""
        if self.seams is None:
            return self.words.of(split_words(text, self.rules.expressions))
        words: list[str] = []
        for line in split_words(text.replace(" ", SPACE), self.rules.expressions):
            words += [line] if self._is_whole(line) else self.seams.split(line)
        return self.words.of(words)

    def _is_whole(self, word: str) -> bool:
        whole = self.rules.ignore_merges or (self.rules.whole_newlines and word[0] == "\n")
        return whole and word in self.ids

    def _encode_word(self, word: str) -> list[int]:
        if self.rules.byte_symbols:
            word = word.encode("utf-8", "surrogatepass").decode("latin-1").translate(_BYTE_TO_CHARACTER)
        if self._is_whole(word):
            return [self.ids[word]]
        found: list[int] = []
        for symbol in merge(list(word), self.ranks, " "):
            id = self.ids.get(symbol)
            found.extend(self._spelled(symbol) if id is None else [id])
        return found

    def _spelled(self, symbol: str) -> list[int]:
        """Ids for a symbol that is no token, byte by byte. A byte without a token is left out, as llama.cpp does."""
        if self.rules.byte_symbols:
            pieces = [character for character in symbol if character.isascii()]
        else:
            pieces = [byte_token(byte) for byte in symbol.encode("utf-8", "surrogatepass")]
        return [self.ids[piece] for piece in pieces if piece in self.ids]

    def spell(self, token: str) -> bytes:
        """The bytes that an ordinary token stands for."""
        if not self.rules.byte_symbols:
            return token.replace(SPACE, " ").encode("utf-8", "surrogatepass")
        return b"".join(_CHARACTER_TO_BYTE.get(character) or character.encode() for character in token)

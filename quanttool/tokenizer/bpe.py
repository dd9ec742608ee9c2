"""Byte-level BPE (`tokenizer.ggml.model` = gpt2): words by regular expression, then merges by rank."""

from itertools import chain

from .merging import merge
from .pre_tokenizers import PreTokenizer
from .splitting import split_words


def _gpt2_alphabet() -> dict[int, int]:
    """GPT-2's character for every byte: printable Latin-1 stands for itself, the rest moves to U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return dict(zip(printable + others, printable + list(range(0x100, 0x100 + len(others))), strict=True))


BYTE_TO_CHARACTER = _gpt2_alphabet()
CHARACTER_TO_BYTE = {chr(character): byte for byte, character in BYTE_TO_CHARACTER.items()}


class _Words(dict[str, list[int]]):
    """Token ids of words, found once each: a text repeats its words more than ten times on average."""

    def __init__(self, encode_word):
        self.encode_word = encode_word

    def __missing__(self, word: str) -> list[int]:
        ids = self[word] = self.encode_word(word)
        return ids


class BPE:
    """ids: token -> id. merges: "left right" in order of rank."""

    def __init__(self, ids: dict[str, int], merges: list[str], pre_tokenizer: PreTokenizer):
        self.ids, self.pre_tokenizer = ids, pre_tokenizer
        self.ranks = dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))  # the first of equals
        self.words = _Words(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """Token ids of text without special tokens."""
        words = split_words(text, self.pre_tokenizer.expressions)
        return list(chain.from_iterable(map(self.words.__getitem__, words)))

    def _encode_word(self, word: str) -> list[int]:
        if self.pre_tokenizer.bytes:
            word = word.encode("utf-8", "surrogatepass").decode("latin-1").translate(BYTE_TO_CHARACTER)
        if self.pre_tokenizer.ignore_merges and word in self.ids:
            return [self.ids[word]]
        found: list[int] = []
        for symbol in merge(list(word), self.ranks, " "):
            if symbol in self.ids:
                found.append(self.ids[symbol])
            else:
                found.extend(self._characters(symbol))
        return found

    def _characters(self, symbol: str) -> list[int]:
        """Ids for a symbol that merges have built and the vocabulary lacks; what has none is left out, as there."""
        if self.pre_tokenizer.bytes:
            spelled = list(symbol)
            spelled = [character for character in spelled if character.isascii()]
        else:
            spelled = [f"<0x{byte:02X}>" for byte in symbol.encode("utf-8", "surrogatepass")]
        return [self.ids[piece] for piece in spelled if piece in self.ids]

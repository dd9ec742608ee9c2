"""WordPiece (`tokenizer.ggml.model` = bert): normalized words, each the longest tokens from left to right."""

import unicodedata

from .splitting import character_categories, is_white_space
from .vocabulary import SPACE, Vocabulary
from .words import WordIds

_CJK_RANGES = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WPM:
    """Tokenizes stretches of text without special tokens.

    Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_wpm_session.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.ids, self.unk = vocabulary.ids, vocabulary.unk
        self.lowercase = vocabulary.flag("normalizer.lowercase", True)
        self.strip_accents = vocabulary.flag("normalizer.strip_accents", self.lowercase)
        self.longest = max(map(len, vocabulary.tokens))
        self.words = WordIds(self._encode_word)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of text; what stands before it does not matter here."""
        return self.words.of(self._normalized_words(text))

    def _normalized_words(self, text: str) -> list[str]:
        categories = character_categories()
        spaced = ""
        for character in text:
            if self.strip_accents:
                character = unicodedata.normalize("NFD", character)[0]
            category = chr(categories[ord(character)])
            if is_white_space(character):
                spaced += " "
            elif category == "C" or character in "\0\ufffd" or (self.strip_accents and category == "M"):
                continue
            else:
                alone = category == "P" or (category == "S" and character.isascii()) or _is_cjk(ord(character))
                character = character.lower()[0] if self.lowercase else character
                spaced += f" {character} " if alone else character
        return spaced.split(" ")

    def _encode_word(self, word: str) -> list[int]:
        if not word:
            return []
        word = SPACE + word
        found: list[int] = []
        start = 0
        while start < len(word):
            ends = range(min(len(word), start + self.longest), start, -1)
            end = next((end for end in ends if word[start:end] in self.ids), None)
            if end is None:
                return [self.unk]
            found.append(self.ids[word[start:end]])
            start = end
        return found

    def spell(self, token: str) -> bytes:
        """The bytes that an ordinary token stands for."""
        return token.replace(SPACE, " ").encode("utf-8", "surrogatepass")


def _is_cjk(code: int) -> bool:
    return any(first <= code <= last for first, last in _CJK_RANGES)

"""Token ids of words, each found once."""

from collections.abc import Callable, Iterable
from itertools import chain


class WordIds(dict[str, list[int]]):
    """Remembers what `encode_word` said: a text repeats its words more than ten times on average."""

    def __init__(self, encode_word: Callable[[str], list[int]]):
        super().__init__()
        self._encode_word = encode_word

    def __missing__(self, word: str) -> list[int]:
        ids = self[word] = self._encode_word(word)
        return ids

    def of(self, words: Iterable[str]) -> list[int]:
        """Ids of all words, one after the other."""
        return list(chain.from_iterable(map(self.__getitem__, words)))

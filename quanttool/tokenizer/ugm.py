"""Unigram (`tokenizer.ggml.model` = t5): normalization by a compiled table, then the most probable tokens (Viterbi).

Works on UTF-8 bytes, as the table does. Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_ugm_session.
"""

from collections.abc import Iterable

import numpy as np

from ..errors import ModelError
from .vocabulary import SPACE, TokenType, Vocabulary

_UNKNOWN_PENALTY = np.float32(10)  # below the least probable token, as in SentencePiece
_UTF8_LENGTH = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4)  # by the upper half of the first byte


class CharacterMap:
    """SentencePiece's normalization rules: a double-array trie from byte strings to their replacements.

    Little-endian: u32 size of the array in bytes, the array u32 [n_nodes], the replacements, each ended by a NUL.
    A node holds its own byte in bits 0-7, "a rule ends here" in bit 8, the offset of its children in bits 10-30
    (times 256 if bit 9 is set). Source: S. Kanda, Space- and Time-Efficient String Dictionaries, 2018.
    """

    def __init__(self, data: bytes):
        size = int.from_bytes(data[:4], "little")
        self.nodes = np.frombuffer(data, "<u4", size // 4, offset=4).tolist() if data else []
        self.replacements = data[4 + size :]

    def longest_rule(self, text: bytes, start: int) -> tuple[int, bytes]:
        """(bytes used, replacement) of the longest rule that text matches at start; (0, b"") if there is none."""
        used, at = 0, 0
        if not self.nodes:
            return 0, b""
        node = _children(self.nodes[0])
        for end in range(start, len(text)):
            byte = text[end]
            node ^= byte
            value = self.nodes[node]
            if byte == 0 or value & 0x800000FF != byte:
                break
            node ^= _children(value)
            if value >> 8 & 1:
                used, at = end + 1 - start, self.nodes[node] & 0x7FFFFFFF
        return used, self.replacements[at : self.replacements.index(0, at)] if used else b""


def _children(value: int) -> int:
    return value >> 10 << ((value & 1 << 9) >> 6)


class UGM:
    """Tokenizes stretches of text without special tokens."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary, self.unk = vocabulary, vocabulary.unk
        types, scores = vocabulary.types, vocabulary.scores
        spelled = [token.encode("utf-8", "surrogateescape") for token in vocabulary.tokens]
        usable = np.isin(types, (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED))
        user_defined = types == TokenType.USER_DEFINED
        normal = scores[types == TokenType.NORMAL]
        self.unknown_score = float((normal.min() if len(normal) else np.float32(0)) - _UNKNOWN_PENALTY)
        scores = np.where(user_defined, 0, scores).tolist()
        self.tokens = {spelled[id]: (id, scores[id]) for id in np.flatnonzero(usable).tolist()}
        self.beginnings = _beginnings(self.tokens)
        self.user_beginnings = _beginnings(spelled[id] for id in np.flatnonzero(user_defined).tolist())
        data = np.asarray(vocabulary.get("precompiled_charsmap", [])).astype(np.uint8).tobytes()
        try:
            self.map = CharacterMap(data)
        except ValueError:
            raise self._damaged() from None
        self.merge_spaces = vocabulary.flag("remove_extra_whitespaces", False)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of text; what stands before it does not matter here."""
        try:
            text = self._normalized(text.encode("utf-8", "surrogatepass"))
        except (IndexError, ValueError):
            raise self._damaged() from None
        return self._most_probable(text) if text else []

    def _damaged(self) -> ModelError:
        return self.vocabulary.error("precompiled_charsmap", "is damaged; convert the model anew")

    def _normalized(self, text: bytes) -> bytes:
        """Apply the rules; spaces become U+2581, one before each word if extra ones are removed."""
        space = SPACE.encode()
        normalized = bytearray()
        prepended = in_word = False
        start = 0
        while start < len(text):
            used, piece = self._normalized_prefix(text, start)
            start += used
            for byte in piece:
                if byte == ord(" "):
                    in_word = False
                    if not self.merge_spaces:
                        normalized += space
                    continue
                if not in_word and (self.merge_spaces or (self.vocabulary.add_space_prefix and not prepended)):
                    normalized += space
                    prepended = True
                in_word = True
                normalized.append(byte)
        return bytes(normalized)

    def _normalized_prefix(self, text: bytes, start: int) -> tuple[int, bytes]:
        """(bytes used, what they become). Any beginning of a user-defined token stays as it is."""
        end = start
        while end < len(text) and text[start : end + 1] in self.user_beginnings:
            end += 1
        if end > start:
            return end - start, text[start:end]
        used, replacement = self.map.longest_rule(text, start)
        if used:
            return used, replacement
        character = text[start : start + _UTF8_LENGTH[text[start] >> 4]]
        try:
            character.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return 1, "\ufffd".encode()
        return len(character), character

    def _most_probable(self, text: bytes) -> list[int]:
        """The tokens with the greatest sum of scores; runs of unknown characters are one unknown token."""
        best = [(-np.inf, self.unk, 0)] * (len(text) + 1)  # (score, last token, where it starts) of text[:i]
        best[0] = (0.0, self.unk, 0)
        start = 0
        while start < len(text):
            score = best[start][0]
            n_bytes = min(_UTF8_LENGTH[text[start] >> 4], len(text) - start)
            known = False
            end = start + 1
            while end <= len(text) and text[start:end] in self.beginnings:
                id, token_score = self.tokens.get(text[start:end], (None, 0.0))
                if id is not None:
                    known = known or end - start == n_bytes
                    if score + token_score > best[end][0]:
                        best[end] = (score + token_score, id, start)
                end += 1
            end = start + n_bytes
            if not known and score + self.unknown_score > best[end][0]:
                best[end] = (score + self.unknown_score, self.unk, start)
            start = end
        return self._path(best)

    def _path(self, best: list[tuple[float, int, int]]) -> list[int]:
        ids: list[int] = []
        end = len(best) - 1
        previous = None
        while end > 0:
            _, id, end = best[end]
            if not (id == self.unk and previous == self.unk):
                ids.append(id)
            previous = id
        return ids[::-1]

    def spell(self, token: str) -> bytes:
        """The bytes that an ordinary token stands for."""
        return token.replace(SPACE, " ").encode("utf-8", "surrogatepass")


def _beginnings(tokens: Iterable[bytes]) -> set[bytes]:
    return {token[:n] for token in tokens for n in range(1, len(token) + 1)}

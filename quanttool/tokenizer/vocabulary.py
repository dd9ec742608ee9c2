"""What a GGUF file says about its tokenizer, checked: tokens, their types, special ids and flags.

Source: llama.cpp src/llama-vocab.cpp llama_vocab::impl::load.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile
from ..errors import ModelError

SPACE = "\u2581"  # how SentencePiece spells a space


def byte_token(byte: int) -> str:
    """The token that stands for one byte in vocabularies with byte fallback."""
    return f"<0x{byte:02X}>"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, an entry per token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Defaults:
    """What holds for a family where the file says nothing. An id that the vocabulary does not have counts as None."""

    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    sep: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False


class Vocabulary:
    """Tokens and special ids of one GGUF file.

    tokens: text of each id, in the family's own spelling. ids: the reverse. types, scores: i32, f32 [n_vocab].
    Raises ModelError where arrays are missing, differ in length or repeat a token.
    """

    def __init__(self, file: GGUFFile, defaults: Defaults):
        self.name = str(file.path)
        self.metadata = file.metadata
        self.tokens = self._tokens()
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(self.ids) < len(self.tokens):
            repeated = next(token for id, token in enumerate(self.tokens) if self.ids[token] != id)
            raise self.error("tokens", f"token {repeated!r} appears twice; convert the model anew")
        self.types = self._numbers("token_type", np.int32, TokenType.NORMAL)
        self.scores = self._numbers("scores", np.float32, 0)
        self.bos = self.special_id("bos", defaults.bos)
        self.eos = self.special_id("eos", defaults.eos)
        self.unk = self.special_id("unknown", defaults.unk)
        self.sep = self.special_id("seperator", defaults.sep)  # GGUF's own spelling
        self.add_bos = self.flag("add_bos_token", defaults.add_bos)
        self.add_eos = self.flag("add_eos_token", defaults.add_eos)
        self.add_space_prefix = self.flag("add_space_prefix", defaults.add_space_prefix)
        self.add_sep = False

    def framing(self, name: str, id: int | None, wanted: bool) -> list[int]:
        """[id] of a special token that begins or ends texts, [] if it is not wanted."""
        if wanted and id is None:
            raise self.error(f"{name}_token_id", "is missing, and texts need this token; convert the model anew")
        return [id] if wanted else []

    def error(self, key: str, what: str) -> ModelError:
        """A ModelError about one of the tokenizer's keys."""
        return ModelError(f"{self.name}: tokenizer.ggml.{key}: {what}")

    def get(self, key: str, default: Any = None) -> Any:
        """Value of tokenizer.ggml.<key>."""
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def flag(self, key: str, default: bool) -> bool:
        """Value of tokenizer.ggml.<key>, a bool."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}, expected true or false")
        return value

    def strings(self, key: str) -> list[str]:
        """The array of strings tokenizer.ggml.<key>."""
        values = self.get(key)
        if values is None:
            raise self.error(key, "is missing, so text cannot be tokenized; convert the model anew with its vocabulary")
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.error(key, "is not an array of strings; convert the model anew")
        return values

    def _tokens(self) -> list[str]:
        tokens = self.strings("tokens")
        if not tokens:
            raise self.error("tokens", "is empty; convert the model anew with its vocabulary")
        # llama.cpp reads a C string: a token ends at its first NUL.
        return [token.partition("\0")[0] or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]

    def _numbers(self, key: str, dtype: type, default: int) -> NDArray:
        values = self.get(key)
        if values is None:
            return np.full(len(self.tokens), default, dtype)
        if not isinstance(values, np.ndarray) or values.dtype not in (np.int32, np.dtype(dtype)):
            raise self.error(key, f"is not an array of {np.dtype(dtype).name}; convert the model anew")
        if len(values) != len(self.tokens):
            raise self.error(key, f"has {len(values)} entries for {len(self.tokens)} tokens; convert the model anew")
        return values.astype(dtype)

    def special_id(self, name: str, default: int | None = None) -> int | None:
        """Id in tokenizer.ggml.<name>_token_id, else the default; None if the vocabulary has no such token."""
        id = self.get(f"{name}_token_id")
        if isinstance(id, int) and 0 <= id < len(self.tokens):
            return id
        return default if default is not None and default < len(self.tokens) else None

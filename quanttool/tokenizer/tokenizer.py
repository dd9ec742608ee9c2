"""The tokenizer of a GGUF file: special tokens, the family's own algorithm, begin and end of sequence."""

import os

from ..container import GGUFFile
from ..errors import ModelError
from .bpe import BPE, CHARACTER_TO_BYTE
from .pre_tokenizers import PRE_TOKENIZERS
from .special import SpecialSplitter, special_tokens
from .vocabulary import Defaults, Vocabulary


class Tokenizer:
    """Text to token ids and back.

    n_vocab: number of tokens. bos_id, eos_id: ids or None. add_bos, add_eos: whether `encode` adds them by itself.
    """

    def __init__(self, vocabulary: Vocabulary, algorithm: BPE):
        self._vocabulary, self._algorithm = vocabulary, algorithm
        self.n_vocab = len(vocabulary.tokens)
        self.bos_id, self.eos_id = vocabulary.bos, vocabulary.eos
        self.add_bos, self.add_eos = vocabulary.add_bos, vocabulary.add_eos
        self._specials = SpecialSplitter(special_tokens(vocabulary))

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Tokenizer":
        """Build the tokenizer from an open file's metadata; raises ModelError if that is impossible."""
        model = file.metadata.get("tokenizer.ggml.model")
        pre = file.metadata.get("tokenizer.ggml.pre", "default")
        if model != "gpt2":
            raise ModelError(f"{file.path}: tokenizer.ggml.model is {model!r}, known: gpt2")
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(sorted(PRE_TOKENIZERS))
            raise ModelError(f"{file.path}: tokenizer.ggml.pre is {pre!r}, known: {known}")
        rules = PRE_TOKENIZERS[pre]
        vocabulary = Vocabulary(file, Defaults(bos=11, eos=11, add_bos=rules.add_bos))
        return cls(vocabulary, BPE(vocabulary.ids, vocabulary.strings("merges"), rules))

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        add_special: begin and end with BOS and EOS where the model wants them.
        parse_special: read the names of control tokens (`<|im_start|>`) in the text as these tokens.
        """
        ids = [self.bos_id] if add_special and self.add_bos else []
        for part in self._specials.split(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._algorithm.encode(part)
        if add_special and self.add_eos:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        characters = "".join(self._vocabulary.tokens[id] for id in ids)
        return bytes(CHARACTER_TO_BYTE[character] for character in characters).decode(errors="replace")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer of the GGUF file at path."""
    return Tokenizer.from_gguf(GGUFFile(path))

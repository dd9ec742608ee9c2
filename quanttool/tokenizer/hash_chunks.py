"""llama.cpp's stand-in for generated test models (`tokenizer.ggml.model` = test): five bytes of text, one hashed id."""

from .vocabulary import Vocabulary

_CHUNK_BYTES = 5


class HashChunks:
    """Source: llama.cpp src/llama-vocab.cpp llama_vocab::impl::tokenize, LLAMA_VOCAB_TYPE_TEST."""

    def __init__(self, vocabulary: Vocabulary):
        self.n_vocab = len(vocabulary.tokens)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of text."""
        data = text.encode("utf-8", "surrogatepass")
        return [self._hash(data[at : at + _CHUNK_BYTES]) for at in range(0, len(data), _CHUNK_BYTES)]

    def _hash(self, chunk: bytes) -> int:
        value = 0
        for byte in chunk:
            value = value * 31 + byte
        return value % self.n_vocab

    def spell(self, token: str) -> bytes:
        """Nothing leads back from a hash: the token's name."""
        return token.encode("utf-8", "surrogateescape")

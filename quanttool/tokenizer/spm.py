"""SentencePiece BPE (`tokenizer.ggml.model` = llama): merges by score over all of the text, bytes as fallback."""

from .merging import merge
from .seams import Seams
from .vocabulary import SPACE, Vocabulary, byte_token
from .words import WordIds


class SPM:
    """Tokenizes stretches of text without special tokens.

    Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_spm_session, llama_vocab::impl::tokenize.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary, self.ids = vocabulary, vocabulary.ids
        self.priority = dict(zip(vocabulary.tokens, (-vocabulary.scores).tolist(), strict=True))
        self.seams = Seams.of_tokens(vocabulary.tokens)
        self.words = WordIds(self._encode_word)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of text, which gets a space in front at the start and after a special token."""
        if after_special and self.vocabulary.add_space_prefix:
            text = " " + text
        return self.words.of(self.seams.split(text.replace(" ", SPACE)))

    def _encode_word(self, word: str) -> list[int]:
        found: list[int] = []
        for symbol in merge(list(word), self.priority, ""):
            id = self.ids.get(symbol)
            found.extend(self._bytes(symbol) if id is None else [id])
        return found

    def _bytes(self, symbol: str) -> list[int]:
        ids = [
            self.ids.get(byte_token(byte), self.ids.get(chr(byte))) for byte in symbol.encode("utf-8", "surrogatepass")
        ]
        if None in ids:
            raise self.vocabulary.error("tokens", f"nothing stands for {symbol!r}: there are no byte tokens <0x00>...")
        return ids

    def spell(self, token: str) -> bytes:
        """The bytes that an ordinary token stands for."""
        return token.replace(SPACE, " ").encode("utf-8", "surrogatepass")

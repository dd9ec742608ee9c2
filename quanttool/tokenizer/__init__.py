"""Text to token ids and back, from GGUF metadata alone, exactly as llama.cpp does it."""

from .tokenizer import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]

"""How each family of byte-level BPE vocabularies cuts text into words: `tokenizer.ggml.pre` -> expressions and flags.

The expressions are those of the models' tokenizer.json in llama.cpp's adaptation; `splitting` says what \\p{...}, \\s
and \\d mean in them. Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_bpe, llama_vocab::impl::load.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PreTokenizer:
    """expressions: applied in turn. ignore_merges: a word that is a token is not merged. add_bos: where the file says
    nothing. bytes: symbols are bytes in GPT-2's alphabet, else characters. spaces: are written as U+2581 first.
    """

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    default_bos: bool = True
    bytes: bool = True
    spaces: bool = False


_SUFFIX = "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"  # the English contractions in any case
_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}]+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s+(?!\S)|\s+"
_LINES = r"\s*[\r\n]+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "smollm": PreTokenizer((r"[\p{N}]", _GPT2)),
}

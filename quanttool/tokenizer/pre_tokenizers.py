"""How each family of BPE vocabularies cuts text into words: `tokenizer.ggml.pre` -> expressions and flags.

The expressions are those of the models' tokenizer.json in llama.cpp's adaptation; `splitting` says what \\p{...}, \\s
and \\d mean in them. Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_bpe, llama_vocab::impl::load.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PreTokenizer:
    r"""One row of the table.

    expressions: applied in turn. ignore_merges: a word that is a token is taken whole, without merging.
    add_bos, bos: whether a text begins with BOS, and BOS itself, where the file does not say; always_bos: whatever it
    says.
    byte_symbols: symbols are bytes in GPT-2's spelling; if not, characters, and a space is spelled U+2581.
    whole_newlines: a run of \n that is a token is taken whole.
    """

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    bos: int | None = 11
    always_bos: bool = False
    byte_symbols: bool = True
    whole_newlines: bool = False


# Pieces that several families share. \p{L-a} is a letter but not a-z: only ASCII letters have case in llama.cpp.
_SUFFIX = "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}]+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+"
_LINES = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"
_ASCII_OTHERS = r"[!-/:-@\[-`{-~]"


def _any(*alternatives: str) -> str:
    return "|".join(alternatives)


def _cased(upper: str, lower: str, suffix: str) -> str:
    """Words that change from upper to lower case at most once."""
    return rf"[^\r\n\p{{L}}\p{{N}}]?[{upper}]*[{lower}]+{suffix}|[^\r\n\p{{L}}\p{{N}}]?[{upper}]+[{lower}]*{suffix}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = _any(_SUFFIX, _LETTERS, r"[\p{N}]{1,3}", _OTHERS + r"[\r\n]*", _LINES, _SPACES)
_QWEN2 = _any(_SUFFIX, _LETTERS, r"[\p{N}]", _OTHERS + r"[\r\n]*", _LINES, _SPACES)
_DEEPSEEK3_WORDS = rf"{_ASCII_OTHERS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_DEEPSEEK3 = (
    r"[\p{N}]{1,3}",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    _any(_DEEPSEEK3_WORDS + r"[\r\n]*", _LINES, _SPACES),
)
_TEKKEN_END = _any(r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _LINES, _SPACES)
_GPT4O = _any(_cased(r"\p{L-a}", r"\p{L-A}", f"(?:{_SUFFIX})?"), r"[\p{N}]{1,3}", _TEKKEN_END)
_UNCASED = _cased(r"\p{L}\p{M}", r"\p{L}\p{M}", f"(?:{_SUFFIX})?")
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_NEWLINE_RUNS = r"[^\n]+|\n+"
# Digits in groups of three from the right. What stands before a number sticks to its first group, as in llama.cpp.
_DIGITS_FROM_THE_RIGHT = r"[^\p{N}]*(?:[\p{N}]{1,3}(?=(?:[\p{N}]{3})*(?![\p{N}])))?"
_CASED_LETTERS = (
    r"\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    r"\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    r"\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    r"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    r"\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    r"\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    r"\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    r"\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    r"\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    r"\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_CJK = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[A-Za-z{_CASED_LETTERS}]+",
    r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+\Z",
    _DEEPSEEK_CJK,
    r"[\p{N}]+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?[\p{L}]+", r"\s?[\p{P}]+", _DEEPSEEK_CJK, r"[\p{N}]")
_JAIS2 = _any(
    *(_SUFFIX, _LETTERS, r"[\p{N}]{1,3}", _OTHERS + r"[\r\n]*", _LINES),
    *(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")),
    r"\s",
)
_KIMI_K2 = _any(
    r"[\p{Han}]+",
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L-Han}}]+(?:{_SUFFIX})?",
    *(r"[\p{N}]{1,3}", _OTHERS + r"[\r\n]*", _LINES, _SPACES),
)
_YOUTU_SCRIPTS = _any(
    r"[\uac00-\ud7a3\u3131-\u318e]+",
    r"[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+",
    r"[\u3105-\u312f]+",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
)
_AFMOE_SCRIPTS = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    r"\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_CHAMELEON = (
    r"<sentinel:[0-9]+>",
    r"IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    r"[\p{N}]",
    r"[\p{P}!-/:-@\[-`{-~]",
    _GPT2,
)

# Names that share a row, and the row.
_ROWS = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"[\p{N}]+", r"[0-9][0-9][0-9]")),
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code "
    "roberta-bpe mpt olmo jais trillion granite-docling exaone4": PreTokenizer((_GPT2,)),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (_LLAMA3,), ignore_merges=True, add_bos=True
    ),
    "dbrx smaug-bpe": PreTokenizer((_LLAMA3,)),
    "chatglm-bpe": PreTokenizer((_LLAMA3,), bos=None),
    "glm4 glm5": PreTokenizer((_LLAMA3,), bos=None, ignore_merges=True),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 openpangu": PreTokenizer(
        (_QWEN2,)
    ),
    "qwen35": PreTokenizer(
        (
            _any(
                *(_SUFFIX, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r"[\p{N}]"),
                *(r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", _LINES, _SPACES),
            ),
        )
    ),
    "starcoder refact command-r cohere2_moe smollm codeshell exaone minerva-7b mellum2": PreTokenizer(
        (r"[\p{N}]", _GPT2)
    ),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": PreTokenizer(_DEEPSEEK3),
    "spark2_5": PreTokenizer((*_DEEPSEEK3[:2], _any(_DEEPSEEK3_WORDS, r"[\r\n]", _SPACES), r"[\p{N}]")),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "tekken": PreTokenizer(
        (_any(_cased(r"\p{L-a}", r"\p{L-A}", ""), r"[\p{N}]", _TEKKEN_END),), ignore_merges=True, add_bos=True
    ),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer((_GPT4O,)),
    "granite-embed-multi-97m": PreTokenizer(
        (_GPT4O.replace(r"\p{L-a}", r"\p{L-a}\p{M}").replace(r"\p{L-A}", r"\p{L-A}\p{M}"),), ignore_merges=True
    ),
    "tiny_aya cohere2moe": PreTokenizer((_DIGITS_FROM_THE_RIGHT, _any(_UNCASED, r"[\p{N}]{1,3}", _TEKKEN_END))),
    "youtu": PreTokenizer((_YOUTU_SCRIPTS, _any(_UNCASED, r"[\p{N}]", _TEKKEN_END)), ignore_merges=True),
    "afmoe": PreTokenizer((_DIGITS_FROM_THE_RIGHT, _AFMOE_SCRIPTS, _DEEPSEEK3[2])),
    "kimi-k2": PreTokenizer((_KIMI_K2,)),
    "superbpe": PreTokenizer((r"[\p{N}]+", r"(?=(?:\d{3})+(?!\d))")),
    "bailingmoe bailingmoe2 llada-moe": PreTokenizer(
        (_any(_SUFFIX, _LETTERS, r"[\p{N}]", _OTHERS + r"[\r\n]*", r"\s*[\r\n]", _SPACES),)
    ),
    "seed-coder": PreTokenizer((_any(_SUFFIX, _LETTERS, r"[\p{N}]", r" ?[^\s\p{L}\p{N}\r\n]+", _LINES, _SPACES),)),
    "exaone-moe": PreTokenizer(
        (
            _any(
                *(_SUFFIX, r"[^\r\n\p{L}\p{N}]?(?:[\p{L}][\p{M}]*(?: [\p{L}][\p{M}]*)*)+", r"[\p{N}]"),
                *(_OTHERS + r"[\r\n/]?", r"\s*[\r\n]", _SPACES),
            ),
        )
    ),
    "minicpm5": PreTokenizer(
        (r"[\p{N}]{1,3}", _any(_SUFFIX, _LETTERS, r"[\p{N}]+", _OTHERS + r"[\r\n]*", _LINES, _SPACES)),
        ignore_merges=True,
    ),
    "laguna": PreTokenizer((_NEWLINE_RUNS, _QWEN2)),
    "ufakzeka": PreTokenizer((_any(_LETTERS, r"[\p{N}]", _OTHERS + r"[\r\n]*", _LINES, _SPACES),)),
    "jais-2": PreTokenizer((_JAIS2,)),
    "poro-chat bloom gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, r"[\p{N}]")),
    "chameleon": PreTokenizer(_CHAMELEON, add_bos=True),
    "gemma4 granite-embed-multi-311m": PreTokenizer(
        (_NEWLINE_RUNS,), always_bos=True, byte_symbols=False, whole_newlines=True
    ),
    "sarvam-moe": PreTokenizer((_NEWLINE_RUNS,), byte_symbols=False),
}

PRE_TOKENIZERS = {name: row for names, row in _ROWS.items() for name in names.split()}

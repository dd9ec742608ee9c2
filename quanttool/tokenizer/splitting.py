"""Cut text into words with regular expressions, as llama.cpp understands them.

llama.cpp does not run the published Unicode expressions: it replaces every character by one byte for its class and
runs an adapted expression over these bytes, with ASCII rules for \\s and \\d. So does this module, with the standard
library's `re`; the words are then llama.cpp's, where a Unicode regex engine differs (cased letters, for one).
Source: llama.cpp src/unicode.cpp unicode_regex_split.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# General category (first letter) of every code point, as of Unicode 15.1, the version that llama.cpp's table has:
# u32 [n_ranges, 2], first code point and ord(letter); "?" is unassigned. Made with unicodedata2 15.1.0.
_CATEGORIES = Path(__file__).with_name("unicode_categories.npy")

# The byte that stands for a character beyond ASCII; an ASCII character stands for itself.
_CLASS_BYTES = {"N": 0xD1, "L": 0xD2, "P": 0xD3, "M": 0xD4, "S": 0xD5, "Z": 0xD0, "C": 0xD0, "?": 0xD0}
_HAN_LETTER, _HAN_UNASSIGNED = 0xD6, 0xD7
_WHITE_SPACE = "\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WHITE_SPACE_BYTE = 0x0B  # vertical tab: what \s matches in bytes
_HAN_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF), (0x2CEB0, 0x2EBEF), (0x2F800, 0x2FA1F),
)  # fmt: skip

# What \p{...} stands for inside [ ]. L-a and L-A are letters without a-z and without A-Z: only ASCII has case here.
_PROPERTIES = {
    r"\p{L}": rb"A-Za-z\xd2\xd6",
    r"\p{L-a}": rb"A-Z\xd2\xd6",
    r"\p{L-A}": rb"a-z\xd2\xd6",
    r"\p{L-Han}": rb"A-Za-z\xd2",
    r"\p{Han}": rb"\xd6\xd7",
    r"\p{N}": rb"0-9\xd1",
    r"\p{M}": rb"\xd4",
    r"\p{P}": rb"!-#%-*,-/:;?@\[-\]_{}\xd3",
    r"\p{S}": rb"$+<->^`|~\xd5",
}


@cache
def character_categories() -> NDArray[np.uint8]:
    """ord of the first letter of every code point's general category: u8 [0x110000]."""
    first, category = np.load(_CATEGORIES).T
    return np.repeat(category.astype(np.uint8), np.diff(first, append=0x110000))


@cache
def _class_bytes() -> NDArray[np.uint8]:
    """The byte that each code point is replaced by: u8 [0x110000]."""
    by_category = np.zeros(256, np.uint8)
    for letter, byte in _CLASS_BYTES.items():
        by_category[ord(letter)] = byte
    classes = by_category[character_categories()]
    for first, last in _HAN_RANGES:
        han = classes[first : last + 1]
        han[:] = np.where(han == _CLASS_BYTES["L"], _HAN_LETTER, _HAN_UNASSIGNED)
    for first, last in re.findall("(.)(?:-(.))?", _WHITE_SPACE):
        classes[ord(first) : ord(last or first) + 1] = _WHITE_SPACE_BYTE
    classes[:128] = np.arange(128)
    return classes


@cache
def _compiled(expression: str) -> re.Pattern:
    """A bytes pattern over classes where the expression names a class, else a str pattern over the text."""
    if r"\p{" not in expression:
        return re.compile(expression, re.ASCII)
    pattern = expression.encode("ascii")
    for name, members in _PROPERTIES.items():
        pattern = pattern.replace(name.encode(), members)
    return re.compile(pattern)


def is_white_space(character: str) -> bool:
    """Whether a character has Unicode's property White_Space (not what `str.isspace` says of U+001C to U+001F)."""
    return _class_bytes()[ord(character)] in b" \t\n\v\f\r"


def code_points(text: str) -> NDArray[np.uint32]:
    """The text's code points: u32 [n_characters]. Lone surrogates pass."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def split_words(text: str, expressions: tuple[str, ...]) -> list[str]:
    """Words of the text: each expression in turn cuts the pieces that the ones before it left.

    What lies between two matches is a piece as well. Inside an expression \\p{...} stands within [ ].
    """
    patterns = [_compiled(expression) for expression in expressions]
    classes = _class_bytes()[code_points(text)].tobytes()  # one byte per character
    plain = re.sub(f"[{_WHITE_SPACE}]", chr(_WHITE_SPACE_BYTE), text)
    ends = [len(text)]
    for pattern in patterns:
        subject = classes if isinstance(pattern.pattern, bytes) else plain
        cuts: list[int] = []
        start = 0
        for end in ends:
            for match in pattern.finditer(subject, start, end):
                cuts.extend(match.span())
            cuts.append(end)
            start = end
        ends = cuts
    words, start = [], 0
    for end in ends:
        if end > start:
            words.append(text[start:end])
            start = end
    return words

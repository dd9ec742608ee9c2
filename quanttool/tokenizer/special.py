"""Special tokens in text: which they are, and cutting text around them."""

from collections.abc import Iterator
from dataclasses import dataclass

from .vocabulary import TokenType, Vocabulary


@dataclass
class SpecialToken:
    """hidden: only seen in text when special tokens are asked for (control and unknown tokens)."""

    id: int
    text: str
    hidden: bool
    strip_left: bool = False
    strip_right: bool = False


def special_tokens(vocabulary: Vocabulary) -> list[SpecialToken]:
    """Every token that is cut out of text before the rest is tokenized, the longest first."""
    hidden = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    found = [
        SpecialToken(id, vocabulary.tokens[id], hidden[kind])
        for id, kind in enumerate(vocabulary.types.tolist())
        if kind in hidden
    ]
    return sorted(found, key=lambda token: -len(token.text.encode("utf-8", "surrogateescape")))


class SpecialSplitter:
    """Cuts text into special tokens and what lies between them."""

    def __init__(self, tokens: list[SpecialToken]):
        self.tokens = tokens

    def split(self, text: str, parse_special: bool) -> Iterator[int | str]:
        """Token ids and stretches of text, in order. One token at a time over all of the text, the longest first."""
        parts: list[int | str] = [text] if text else []
        for token in self._present(text, parse_special):
            parts = [piece for part in parts for piece in _cut(part, token)]
        return parts

    def _present(self, text: str, parse_special: bool) -> list[SpecialToken]:
        # Thousands of tokens share a few dozen beginnings, and hardly any is in the text.
        tokens = [token for token in self.tokens if parse_special or not token.hidden]
        beginnings = {beginning for beginning in {token.text[:4] for token in tokens} if beginning in text}
        return [token for token in tokens if token.text[:4] in beginnings and token.text in text]


def _cut(part: int | str, token: SpecialToken) -> list[int | str]:
    """The part itself if the token is not in it, else its pieces around the token."""
    if isinstance(part, int) or token.text not in part:
        return [part]
    stretches = part.split(token.text)
    pieces: list[int | str] = []
    for index, stretch in enumerate(stretches):
        if index:
            pieces.append(token.id)
            if token.strip_right:
                stretch = stretch.lstrip(_SPACES)
        if token.strip_left and index < len(stretches) - 1:
            stretch = stretch.rstrip(_SPACES)
        if stretch:
            pieces.append(stretch)
    return pieces


_SPACES = " \t\n\v\f\r"  # C's isspace

"""Where text can be cut because no token ever spans the place.

Merging whole documents is slow, and nearly every stretch of text has occurred before. If no token holds the characters
c and d side by side, no merge can join them, and what stands left and right of such a seam merges independently:
the words between seams can be looked up instead. In Llama's vocabulary all but runs of spaces are seams before a space.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .splitting import code_points

_BITS = 21  # of a code point


def _pairs(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.uint64]:
    return left.astype(np.uint64) << _BITS | right


class Seams:
    """Cuts text between characters that no token joins. inseparable: sorted pairs of code points, u64 [n_pairs]."""

    def __init__(self, inseparable: NDArray[np.uint64]):
        self.inseparable = inseparable

    @classmethod
    def of_tokens(cls, tokens: Iterable[str]) -> "Seams":
        """The seams of a vocabulary whose tokens are all that can arise."""
        codes = code_points("\0".join(tokens))
        return cls(np.unique(_pairs(codes[:-1], codes[1:])))

    @classmethod
    def of_merges(cls, merges: Iterable[str]) -> "Seams":
        """The seams of a list of merges, "left right"."""
        codes = code_points("\0".join(merges))
        spaces = np.flatnonzero(codes[1:-1] == ord(" ")) + 1
        return cls(np.unique(_pairs(codes[spaces - 1], codes[spaces + 1])))

    def split(self, text: str) -> list[str]:
        """The stretches of text between seams."""
        codes = code_points(text)
        pairs, places = np.unique(_pairs(codes[:-1], codes[1:]), return_inverse=True)
        cuts = np.flatnonzero(~np.isin(pairs, self.inseparable)[places]) + 1
        bounds = [0, *cuts.tolist(), len(text)]
        return [text[start:end] for start, end in pairwise(bounds)]

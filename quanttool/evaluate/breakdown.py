"""Where the damage sits: statistics of parts of the scored tokens, by their place and by what they are."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .divergence import Divergence
from .statistics import Estimate, mean

N_PLACES = 8  # parts of a context
RARE = 2  # a token that occurs at most so often in the text
SURE, UNSURE = 0.9, 0.1  # probability that the base gives to the text's own token
CODE_SYMBOLS = set("{}[]()<>=;_\\|&^%$#@~`*+/")

# What a token is; the first that fits, so these are a partition
KINDS = ("white space", "digits", "word, its begin", "word, inside", "code symbols", "punctuation", "other")


@dataclass(frozen=True)
class Part:
    """Statistics of the tokens of one class.

    share:      of all scored tokens
    kld:        mean divergence; kld_share: its part of the sum over all tokens
    nll_change: mean of -log p of the model minus the base's
    """

    name: str
    share: float
    kld: Estimate
    kld_share: float
    nll_change: Estimate


def breakdown(divergence: Divergence, classes: Mapping[str, NDArray[np.bool_]]) -> list[Part]:
    """Statistics of each class that has tokens. classes: name -> bool [n_chunks, n_scored]."""
    total = divergence.kld.sum() or 1.0
    change = divergence.nll - divergence.nll_base
    return [
        Part(name, float(mask.mean()), mean(kld), float(kld.sum() / total), mean(change[mask]))
        for name, mask in classes.items()
        if (kld := divergence.kld[mask]).size
    ]


def token_classes(
    text: NDArray[np.int32], nll_base: NDArray[np.float64], pieces: Mapping[int, bytes]
) -> dict[str, NDArray[np.bool_]]:
    """Classes of the scored tokens: what they are, what precedes them, how the base takes them, and their place.

    text:      i32 [n_chunks, n_ctx]; the last n_scored tokens of each chunk are scored
    nll_base:  f64 [n_chunks, n_scored]
    pieces:    id of every token of the text -> the bytes it stands for

    Returns name -> bool [n_chunks, n_scored]. The classes of one family (before the colon) cover every token once, but
    for those of "token".
    """
    n_scored, n_ctx = nll_base.shape[1], text.shape[1]
    ids, index, counts = np.unique(text, return_inverse=True, return_counts=True)
    index = index.reshape(text.shape)
    target, before = index[:, -n_scored:], index[:, -n_scored - 1 : -1]
    kinds = np.array([KINDS.index(kind_of(pieces[id])) for id in ids.tolist()])
    ends_line = np.array([pieces[id].endswith(b"\n") for id in ids.tolist()])
    p = np.exp(-nll_base)
    places = np.broadcast_to(np.arange(n_ctx - n_scored, n_ctx), nll_base.shape)
    classes = {f"kind: {name}": kinds[target] == i for i, name in enumerate(KINDS)}
    classes |= {
        "token: after a newline": ends_line[before],
        f"token: at most {RARE} in the text": counts[target] <= RARE,
    }
    classes |= {f"base: p > {SURE}": p > SURE, f"base: p {UNSURE} to {SURE}": (p >= UNSURE) & (p <= SURE)}
    classes |= {f"base: p < {UNSURE}": p < UNSURE}
    edges = np.linspace(n_ctx - n_scored, n_ctx, min(N_PLACES, n_scored) + 1).astype(int)
    for first, stop in pairwise(edges.tolist()):
        classes[f"place: {first} to {stop - 1}"] = (places >= first) & (places < stop)
    return classes


def kind_of(piece: bytes) -> str:
    """One of KINDS."""
    text = piece.decode(errors="replace")
    core = text.strip()
    if not core:
        return "white space"
    if any(c.isdigit() for c in core):
        return "digits"
    if any(c.isalpha() for c in core):
        return "word, its begin" if text[0].isspace() else "word, inside"
    if set(core) & CODE_SYMBOLS:
        return "code symbols"
    return "punctuation" if set(core) <= set(string.punctuation + "–—‘’“”…") else "other"

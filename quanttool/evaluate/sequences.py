"""Log-likelihoods of parts of many short sequences, all of them in one pass over the model."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .predictions import LanguageModel, ModelPredictions, Normalizer, parts

# The shortest sequence of a group, relative to the longest: what is less wide than its group is filled up with padding.
# About a tenth of all rows is then padding, in a dozen groups.
FULL_ENOUGH = 0.8


class SequenceModel(LanguageModel, Protocol):
    """What is asked of a model here (quanttool.models.Model is one)."""

    def hidden_states_of_groups(
        self,
        groups: Sequence[ArrayLike],
        progress: Callable[[int, int], None] | None = None,
        memory: int | None = None,
    ) -> list[NDArray[np.float32]]:
        """i32 [n_sequences, n_tokens] of each group -> f32 [n_sequences, n_tokens, n_embd] of each."""


class Scored(NamedTuple):
    """A sequence of which some tokens are scored.

    tokens:       token ids
    start, stop:  tokens[start:stop] are scored; the first token of a sequence cannot be, nothing comes before it
    """

    tokens: Sequence[int]
    start: int
    stop: int


class Likelihoods(NamedTuple):
    """Of the scored tokens of one sequence. log_p: f64 [n], nats; is_top: bool [n], no token was more likely."""

    log_p: NDArray[np.float64]
    is_top: NDArray[np.bool_]


def log_likelihoods(
    model: SequenceModel,
    sequences: Sequence[Scored],
    progress: Callable[[int, int], None] | None = None,
    memory: int | None = None,
) -> list[Likelihoods]:
    """Log-likelihoods of the scored tokens of each sequence, given what comes before them in it.

    memory: bytes of hidden states that are kept in memory; default: half of what is free

    Raises what the model's pass raises: UsageError for tokens outside the vocabulary, ModelError for NaN.
    """
    fed = [sequence.tokens[: max(sequence.stop - 1, 0)] for sequence in sequences]  # the last one predicts nothing
    order = sorted((i for i, tokens in enumerate(fed) if tokens), key=lambda i: -len(fed[i]))
    results = [Likelihoods(np.empty(0), np.empty(0, bool))] * len(sequences)
    if not order:
        return results
    groups = _groups([len(fed[i]) for i in order])
    padded = [_filled([fed[i] for i in order[group]]) for group in groups]
    hidden = model.hidden_states_of_groups(padded, progress, memory)
    rows = _Rows(hidden, [[sequences[i] for i in order[group]] for group in groups])
    targets = [np.asarray(sequences[i].tokens[sequences[i].start : sequences[i].stop], np.int32) for i in order]
    all_targets = np.concatenate(targets)
    normalizer = Normalizer(all_targets)
    for part in parts([ModelPredictions(model, rows)]):
        normalizer.add(part, part.logits[0])
    log_p = -normalizer.nll()
    is_top = normalizer.top == all_targets
    ends = np.cumsum([len(target) for target in targets])
    for i, target, end in zip(order, targets, ends, strict=True):
        results[i] = Likelihoods(log_p[end - len(target) : end], is_top[end - len(target) : end])
    return results


def _groups(lengths: list[int]) -> list[slice]:
    """Slices of lengths that fall, each with the shortest at least FULL_ENOUGH of the longest."""
    starts: list[int] = []
    for i, length in enumerate(lengths):
        if not starts or length < FULL_ENOUGH * lengths[starts[-1]]:
            starts.append(i)
    return [slice(start, stop) for start, stop in pairwise([*starts, len(lengths)])]


def _filled(rows: list[Sequence[int]]) -> NDArray[np.int32]:
    """Token sequences, the longest first, filled up with their own first token: i32 [n_sequences, n_tokens]."""
    return np.array([[*row, *[row[0]] * (len(rows[0]) - len(row))] for row in rows], np.int32)


class _Rows:
    """Hidden states that predict the scored tokens, sequence after sequence; only what is asked for is copied."""

    def __init__(self, hidden: list[NDArray[np.float32]], groups: list[list[Scored]]):
        self._groups: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
        self._starts = [0]
        for states, sequences in zip(hidden, groups, strict=True):
            lengths = [s.stop - s.start for s in sequences]
            which = np.repeat(np.arange(len(sequences)), lengths)
            place = np.concatenate([np.arange(s.start - 1, s.stop - 1) for s in sequences])
            self._groups.append((states, which, place))
            self._starts.append(self._starts[-1] + len(which))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        start, stop, _ = rows.indices(len(self))
        pieces = []
        for number in range(bisect_right(self._starts, start) - 1, len(self._groups)):
            first = self._starts[number]
            if first >= stop:
                break
            states, which, place = self._groups[number]
            inside = slice(max(start - first, 0), stop - first)
            pieces.append(states[which[inside], place[inside]])
        return np.concatenate(pieces)

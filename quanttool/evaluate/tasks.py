"""Questions with several candidates, of which the most likely one is the model's answer.

A candidate's score is the mean log-likelihood of its scored tokens, nats per token. Which tokens these are follows
perplexity.cpp (hellaswag_score, winogrande_score, multiple_choice_score).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .sequences import Scored, SequenceModel, log_likelihoods
from .statistics import Estimate, share
from .task_files import Blank, Continuations

FEWEST_AFTER_GAP = 3  # with no more different tokens than that, the choice itself is scored, too

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Question:
    """Candidates, of which those with numbers in `right` are right."""

    candidates: list[Scored]
    right: frozenset[int]


@dataclass(frozen=True)
class TaskResult:
    """Answers to questions. scores: of each question, f64 [n_candidates]; right: which candidates are right."""

    scores: list[NDArray[np.float64]]
    right: list[frozenset[int]]

    @cached_property
    def answers(self) -> list[int]:
        """The likeliest candidate of each question, the first of equals."""
        return [int(np.argmax(scores)) for scores in self.scores]

    @cached_property
    def is_correct(self) -> NDArray[np.bool_]:
        return np.array([answer in right for answer, right in zip(self.answers, self.right, strict=True)])

    @cached_property
    def accuracy(self) -> Estimate:
        """Share of questions that are answered right."""
        return share(self.is_correct)

    def running(self) -> NDArray[np.float64]:
        """Accuracy over questions 1 to i, for each i: f64 [n_questions]."""
        return np.cumsum(self.is_correct) / np.arange(1, len(self.is_correct) + 1)

    @property
    def chance(self) -> float:
        """What blind guessing would score: one over the mean number of candidates, as llama-perplexity counts it."""
        return len(self.scores) / sum(map(len, self.scores))


def answer(
    model: SequenceModel,
    questions: Sequence[Question],
    progress: Callable[[int, int], None] | None = None,
    memory: int | None = None,
) -> TaskResult:
    """Score all candidates of all questions in one pass over the model."""
    sequences = [candidate for question in questions for candidate in question.candidates]
    if any(candidate.stop <= candidate.start for candidate in sequences):
        raise UsageError("a candidate has no token that could be scored: its text is empty, or a single token")
    means = iter([float(found.log_p.mean()) for found in log_likelihoods(model, sequences, progress, memory)])
    scores = [np.array([next(means) for _ in question.candidates]) for question in questions]
    return TaskResult(scores, [question.right for question in questions])


def continuation_question(task: Continuations, encode: Encode) -> Question:
    """Context and ending joined by a space; scored are all tokens from the first that differs between endings."""
    sequences = [encode(f"{task.context} {ending}") for ending in task.endings]
    start = _common_start(sequences)
    return Question([Scored(tokens, start, len(tokens)) for tokens in sequences], task.right)


def blank_question(task: Blank, encode: Encode) -> Question:
    """The sentence with either choice in its gap; scored is what follows the choice, the last token left out.

    Where a sentence differs in FEWEST_AFTER_GAP tokens or less, the choice is scored, too. (There, llama-perplexity
    takes the first logits of the second sentence from the wrong place; ours are right, so scores differ.)
    """
    sequences = [encode(task.before + choice + task.after) for choice in task.choices]
    common = _common_start(sequences)
    after_choice = min(map(len, sequences)) - common > FEWEST_AFTER_GAP
    candidates = []
    for tokens, choice in zip(sequences, task.choices, strict=True):
        start = len(encode(task.before + choice)) if after_choice else common
        start = max(1, min(start, len(tokens) - 1))
        stop = len(tokens) - 1 if len(tokens) - start > 1 else len(tokens)
        candidates.append(Scored(tokens, start, stop))
    return Question(candidates, frozenset([task.right]))


def _common_start(sequences: list[list[int]]) -> int:
    """How many first tokens all sequences share; at least 1, and so that each has a token left."""
    shared = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return max(1, min(shared, min(map(len, sequences)) - 1))

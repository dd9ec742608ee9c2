"""Text as independent chunks of one context each, and which of their tokens are scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError


@dataclass(frozen=True)
class Chunks:
    """A text cut into contexts, as llama-perplexity cuts it (perplexity.cpp, function perplexity).

    tokens:   i32 [n_chunks, n_ctx], what the model is fed: the first token of each chunk is BOS if the model wants one
    targets:  i32 [n_chunks, n_scored], the tokens to predict: those that have at least half a context before them
    number:   of the first chunk in its text, counted from 1
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    number: int = 1

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        return self.tokens.shape[1]

    @property
    def first(self) -> int:
        """The first position whose prediction is scored."""
        return self.n_ctx // 2

    @property
    def n_scored(self) -> int:
        """Scored tokens per chunk: 255 of 512."""
        return self.targets.shape[1]

    def scored(self, hidden: NDArray[np.float32]) -> "ScoredRows":
        """Rows that predict targets, of hidden states f32 [n_chunks, n_ctx, n_embd]."""
        return ScoredRows(hidden, self.first, self.n_scored)

    def groups(self, start: int = 0, stops: Sequence[int] = ()) -> Iterator["Chunks"]:
        """Consecutive groups of chunks from chunk `start` (from 0) on: one, or more where they have to stop between.

        stops: a group ends at every multiple of each of these
        """
        while start < len(self):
            end = min([len(self), *((start // every + 1) * every for every in stops)])
            yield Chunks(self.tokens[start:end], self.targets[start:end], self.number + start)
            start = end


@dataclass(frozen=True)
class ScoredRows:
    """f32 [n_chunks * n_scored, n_embd], of which only the rows that are asked for are copied."""

    hidden: NDArray[np.float32]  # [n_chunks, n_ctx, n_embd]
    first: int
    n_scored: int

    def __len__(self) -> int:
        return len(self.hidden) * self.n_scored

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        chunk, place = np.divmod(np.arange(len(self))[rows], self.n_scored)
        return self.hidden[chunk, self.first + place]


def split(
    tokens: Sequence[int], n_ctx: int, n_chunks: int | None = None, first_chunk: int = 0, bos_id: int | None = None
) -> Chunks:
    """Cut a text's tokens into chunks of n_ctx; what is left at the end is dropped.

    n_chunks:     at most so many
    first_chunk:  skip that many chunks at the start of the text
    bos_id:       put in the place of each chunk's first token, if the model adds BOS

    Raises UsageError if less than two contexts of text are left: too little to say anything.
    """
    all_tokens = np.asarray(tokens, np.int32)[first_chunk * n_ctx :]
    if len(all_tokens) < 2 * n_ctx:
        skipped = f" after skipping {first_chunk} chunks" if first_chunk else ""
        raise UsageError(
            f"the text has {len(all_tokens)} tokens{skipped}; a context of {n_ctx} needs at least {2 * n_ctx}: "
            "give a longer text or a smaller context"
        )
    whole = len(all_tokens) // n_ctx if n_chunks is None else min(n_chunks, len(all_tokens) // n_ctx)
    chunks = all_tokens[: whole * n_ctx].reshape(whole, n_ctx)
    targets = chunks[:, n_ctx // 2 + 1 :].copy()
    fed = chunks.copy()
    if bos_id is not None:
        fed[:, 0] = bos_id
    return Chunks(fed, targets, first_chunk + 1)

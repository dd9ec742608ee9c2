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
    targets:  i32 [n_chunks, n_scored], the tokens to predict, the last ones of each chunk
    text:     i32 [n_chunks, n_ctx], the tokens as they stand in the text
    number:   of the first chunk in its text, counted from 1
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    text: NDArray[np.int32]
    number: int = 1

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        return self.tokens.shape[1]

    @property
    def first(self) -> int:
        """The first position whose prediction is scored."""
        return self.n_ctx - 1 - self.n_scored

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
            yield self[start:end]
            start = end

    def spread(self, wanted: int) -> "Chunks":
        """At most so many of the chunks, from all over the text."""
        places = np.unique(np.linspace(0, len(self) - 1, min(wanted, len(self))).round().astype(np.int64))
        return Chunks(self.tokens[places], self.targets[places], self.text[places])

    def __getitem__(self, chunks: slice) -> "Chunks":
        """Some of the chunks, as a slice without a step from 0 on."""
        number = self.number + (chunks.start or 0)
        return Chunks(self.tokens[chunks], self.targets[chunks], self.text[chunks], number)


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


def chunks_of(text: NDArray[np.int32], n_scored: int, bos_id: int | None = None, number: int = 1) -> Chunks:
    """Chunks of i32 [n_chunks, n_ctx]: the last n_scored tokens of each are scored.

    bos_id:  put in the place of each chunk's first token, if the model adds BOS
    """
    fed = text.astype(np.int32)
    if bos_id is not None:
        fed[:, 0] = bos_id
    return Chunks(fed, text[:, -n_scored:].astype(np.int32), text.astype(np.int32), number)


def split(
    tokens: Sequence[int], n_ctx: int, n_chunks: int | None = None, first_chunk: int = 0, bos_id: int | None = None
) -> Chunks:
    """Cut a text's tokens into chunks of n_ctx; those with at least half a context before them are scored.

    What is left at the end is dropped.

    n_chunks:     at most so many
    first_chunk:  skip that many chunks at the start of the text
    bos_id:       see `chunks_of`

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
    text = all_tokens[: whole * n_ctx].reshape(whole, n_ctx)
    return chunks_of(text, n_ctx - 1 - n_ctx // 2, bos_id, first_chunk + 1)


def windows(
    tokens: Sequence[int], n_ctx: int, stride: int, n_chunks: int | None = None, bos_id: int | None = None
) -> Chunks:
    """Overlapping windows of n_ctx + stride // 2 tokens, each `stride` further on; its last `stride` tokens are scored.

    So every token is scored once, with at least n_ctx - stride / 2 tokens before it. As llama-perplexity's
    --ppl-stride (perplexity.cpp, function perplexity_v2), which rounds windows up to a multiple of 256, and means to
    put BOS in, but does so too late.

    Raises UsageError if the stride leaves nothing before the scored tokens, or if the text is not longer than a window.
    """
    all_tokens, window = np.asarray(tokens, np.int32), n_ctx + stride // 2
    if stride >= window:
        raise UsageError(f"a stride of {stride} needs a context of more than {stride - stride // 2}, got {n_ctx}")
    if len(all_tokens) <= window:
        raise UsageError(
            f"the text has {len(all_tokens)} tokens; a context of {n_ctx} with a stride of {stride} takes windows of "
            f"{window} and needs more than one: give a longer text or a smaller context"
        )
    whole = -(-(len(all_tokens) - window) // stride)  # llama-perplexity leaves out a window that ends with the text
    whole = whole if n_chunks is None else min(n_chunks, whole)
    text = np.lib.stride_tricks.sliding_window_view(all_tokens, window)[: whole * stride : stride]
    return chunks_of(text, stride, bos_id)

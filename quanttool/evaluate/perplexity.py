"""Perplexity: the exponential of the mean negative log-likelihood of the scored tokens."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..kernels.log_softmax import log_sum_exp
from ..parallel import for_each_slab
from .statistics import Estimate, exponential, mean

LOGIT_BYTES = 64 << 20  # logits that exist at once, per model: never the whole [n_tokens, n_vocab]
ROWS_PER_THREAD = 8


class LanguageModel(Protocol):
    """What is asked of a model here (quanttool.models.Model is one)."""

    n_vocab: int

    def output_logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32 [n_rows, n_embd] -> f32 [n_rows, n_vocab]."""


class Rows(Protocol):
    """Rows f32 [n, n_embd] that are taken a few at a time: an array, or `Chunks.scored`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> NDArray[np.float32]: ...


def rows_at_a_time(n_vocab: int) -> int:
    """How many rows of logits fit into LOGIT_BYTES."""
    return max(1, LOGIT_BYTES // (4 * n_vocab))


def normalizers(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Log-sum-exp and place of the largest logit of each row: f32 [n_rows, n_vocab] -> f64 [n_rows], i32 [n_rows]."""
    lse, top = np.empty(len(logits)), np.empty(len(logits), np.int32)
    for_each_slab(lambda rows: log_sum_exp(logits[rows], lse[rows], top[rows]), len(logits), ROWS_PER_THREAD)
    if not np.isfinite(lse).all():
        raise ModelError(
            "the model's logits are not finite; its output matrix is damaged or overflows, "
            "fetch or quantize the file anew"
        )
    return lse, top


def negative_log_likelihood(model: LanguageModel, hidden: Rows, targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """-log p(target) in nats: f32 [n_rows, n_embd], i32 [n_rows] -> f64 [n_rows]. Raises ModelError on NaN."""
    nll = np.empty(len(hidden))
    step = rows_at_a_time(model.n_vocab)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits = model.output_logits(hidden[rows])
        lse, _ = normalizers(logits)
        nll[rows] = lse - logits[np.arange(len(logits)), targets[rows]]
    return nll


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text. nll: f64 [n_chunks, n_scored], nats."""

    nll: NDArray[np.float64]

    @cached_property
    def estimate(self) -> Estimate:
        """The perplexity and its standard error."""
        return exponential(mean(self.nll.ravel()))

    def running(self) -> NDArray[np.float64]:
        """Perplexity of chunks 1 to i, for each i: f64 [n_chunks]."""
        return np.exp(np.cumsum(self.nll.mean(axis=1)) / np.arange(1, len(self.nll) + 1))

"""What models predict for every scored token, a part of the vocabulary and a few rows at a time.

Logits of a whole text do not fit into memory, nor does an expanded output matrix where a vocabulary is large. So the
vocabulary is taken in parts: a part of each model's output matrix is expanded once and multiplied with all rows, and
what is wanted of the logits is summed up along the way.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..kernels.log_softmax import add_logits
from ..parallel import for_each_slab

LOGIT_BYTES = 32 << 20  # logits that exist at once, per model
WEIGHT_BYTES = 192 << 20  # expanded parts of output matrices that exist at once, of all models together
TOKENS_MULTIPLE = 256  # parts begin at a multiple of it: types that weave rows together stay whole
ROWS_PER_THREAD = 8

Logits = NDArray[np.float32]


class Rows(Protocol):
    """Rows f32 [n, n_embd] that are taken a few at a time: an array, or `Chunks.scored`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> NDArray[np.float32]: ...


class LanguageModel(Protocol):
    """What is asked of a model here (quanttool.models.Model is one)."""

    n_vocab: int
    n_embd: int

    def output_part(self, tokens: slice) -> Callable[[NDArray[np.float32]], Logits]:
        """Function f32 [n_rows, n_embd] -> logits of these tokens, f32 [n_rows, n_tokens]."""


class Predictions(Protocol):
    """Logits, or log-probabilities, of a model at every scored position.

    token_bytes:   memory that a part takes for each of its tokens
    is_normalized: they are log-probabilities: their exponentials are probabilities as they stand
    floor:         what is not above it is not known, but only small; -inf if all is known
    """

    n_vocab: int
    token_bytes: int
    is_normalized: bool
    floor: float

    def __len__(self) -> int:
        """Number of rows."""

    def part(self, tokens: slice) -> Callable[[slice], Logits]:
        """Function rows -> f32 [n_rows, n_tokens]."""


class ModelPredictions:
    """The product of hidden states with a model's output matrix.

    hidden: f32 [n_chunks * n_scored, n_embd], the scored ones
    """

    is_normalized, floor = False, -np.inf

    def __init__(self, model: LanguageModel, hidden: Rows):
        self._model, self._hidden = model, hidden
        self.n_vocab, self.token_bytes = model.n_vocab, 4 * model.n_embd

    def __len__(self) -> int:
        return len(self._hidden)

    def part(self, tokens: slice) -> Callable[[slice], Logits]:
        product = self._model.output_part(tokens)
        return lambda rows: product(self._hidden[rows])


class Part(NamedTuple):
    """Logits of some tokens in some rows, one array per model: f32 [n_rows, n_tokens]."""

    tokens: slice
    rows: slice
    logits: list[Logits]


def parts(everyone: Sequence[Predictions]) -> Iterator[Part]:
    """All logits of several models over the same rows and vocabulary, part by part."""
    n_rows, n_vocab = len(everyone[0]), everyone[0].n_vocab
    width = WEIGHT_BYTES // max(1, sum(one.token_bytes for one in everyone))
    width = min(n_vocab, max(1, width // TOKENS_MULTIPLE) * TOKENS_MULTIPLE)
    step = max(1, LOGIT_BYTES // (4 * width))
    for first in range(0, n_vocab, width):
        tokens = slice(first, min(first + width, n_vocab))
        functions = [one.part(tokens) for one in everyone]
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
            yield Part(tokens, rows, [function(rows) for function in functions])
        del functions  # before the next part is expanded


class Normalizer:
    """Log-sum-exp, largest logit and target's logit of every row, from parts that come in the order of the tokens.

    highest f64 [n_rows]: the largest logit so far; total f64 [n_rows]: sum of e^(logit - highest)
    """

    def __init__(self, targets: NDArray[np.int32], is_normalized: bool = False):
        self._targets, self._is_normalized, n = targets, is_normalized, len(targets)
        self.highest, self.total, self.top = np.full(n, -np.inf), np.zeros(n), np.zeros(n, np.int32)
        self._target_logit = np.full(n, np.nan)

    def add(self, part: Part, logits: Logits) -> None:
        highest, total, top = self.highest[part.rows], self.total[part.rows], self.top[part.rows]

        def work(rows: slice) -> None:
            add_logits(logits[rows], part.tokens.start, highest[rows], total[rows], top[rows])

        for_each_slab(work, len(logits), ROWS_PER_THREAD)
        targets = self._targets[part.rows]
        (here,) = np.nonzero((targets >= part.tokens.start) & (targets < part.tokens.stop))
        self._target_logit[part.rows][here] = logits[here, targets[here] - part.tokens.start]

    def lse(self) -> NDArray[np.float64]:
        """Log-sum-exp of every row, f64 [n_rows]; 0 for log-probabilities. Raises ModelError if it is not finite."""
        with np.errstate(divide="ignore", invalid="ignore"):
            lse = self.highest + np.log(self.total)
        if not np.isfinite(lse).all():
            raise ModelError(
                "the model's logits are not finite; its output matrix is damaged or overflows, "
                "fetch or quantize the file anew"
            )
        return np.zeros(len(lse)) if self._is_normalized else lse

    def nll(self) -> NDArray[np.float64]:
        """-log p of the targets in nats, f64 [n_rows]."""
        return self.lse() - self._target_logit


def negative_log_likelihood(model: LanguageModel, hidden: Rows, targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """-log p(target) in nats: f32 [n_rows, n_embd], i32 [n_rows] -> f64 [n_rows]. Raises ModelError on NaN."""
    normalizer = Normalizer(targets)
    for part in parts([ModelPredictions(model, hidden)]):
        normalizer.add(part, part.logits[0])
    return normalizer.nll()

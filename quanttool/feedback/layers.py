"""Through a model layer by layer with two passes side by side: as it is, and with the weights quantized so far.

For each group of weights that have the same input, a layer's step is taken up to that input: so each weight is rounded
for the inputs that the quantized model will really give it. In memory are the hidden states of both passes, one layer,
and the covariances of one input.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import blas
from ..formats import BlockFormat, dequantize_rows, quantize_rows
from ..formats.base import Search
from ..formats.grid import has_grid
from ..imatrix.hessian import add_whole
from .covariance import F32, Inputs
from .matrices import Finished, round_matrices
from .rounding import DAMPING, PASSES, Feedback, damped
from .target import corrections, excess_error, strengths

HELD_OUT = 8  # one chunk of so many is not learned from: it decides
SAME = 0.01  # relative difference below which a product is taken for a change of hidden states
KEPT_BYTES = 1 << 30  # of a weight's inputs: past that the text is taken through the step again
ROWS_PER_BATCH = 2048  # rows that go through a step at a time


@dataclass(frozen=True)
class Settings:
    """How weights are rounded.

    search:      how scales are found, see `formats.quantize_rows`
    passes:      over all columns after the first
    correction:  what part of a target's best correction on held-out text is taken, 0 to 1
    damping:     times the mean of the covariance's diagonal: added to it
    """

    search: Search = "best"
    passes: int = PASSES
    correction: float = 1.0
    damping: float = DAMPING


class Outcome(NamedTuple):
    """What became of a tensor.

    Squared errors of outputs on held-out text, less those of exact weights with the same inputs:

    correction:  how much of the correction of its target was taken
    plain:   error if each weight is rounded for itself
    target:  error of the target before it is rounded: below 0 as far as it makes up for errors of earlier weights
    error:   error with feedback
    size:    sum of squares of exact outputs
    """

    name: str
    correction: float
    plain: float
    target: float
    error: float
    size: float

    @property
    def kept_plain(self) -> bool:
        """Feedback would have made it worse."""
        return self.plain < self.error


class Group(NamedTuple):
    """Weights with the same input.

    share:  of its output that is added to the hidden states, and is all that is added; 0: it goes other ways
    """

    names: list[str]
    share: float


class Reached(Exception):
    """The pass has come to what it was for."""


class Calibration:
    """Quantizes the weights of a model's layers with error feedback.

    original, quantized:  the same model, opened twice (`models.load_model`)
    formats:   name -> format, of the tensors to be quantized; others stay as they are
    tokens:    i32 [n_chunks, n_ctx], the calibration text
    memory:    bytes that the hidden states of one pass may take in memory, see `Model.hidden_states`
    outcomes:  of the tensors that were quantized so far
    held_out:  i32 [n, n_ctx], the chunks that were not learned from
    """

    def __init__(
        self,
        original: Any,
        quantized: Any,
        formats: Mapping[str, BlockFormat],
        tokens: NDArray[np.int32],
        settings: Settings | None = None,
        memory: int | None = None,
    ):
        self.original, self.quantized, self.memory = original, quantized, memory
        self.formats, self.settings = formats, settings or Settings()
        turn, place = np.divmod(np.arange(len(tokens)), HELD_OUT)
        held_out = place == HELD_OUT - 1 - turn % HELD_OUT  # each time another place: a text may be mixed in turns
        self.tokens = np.concatenate([tokens[~held_out], tokens[held_out]])
        self.n_learned = int((~held_out).sum())
        self.held_out = tokens[held_out]
        self.outcomes: list[Outcome] = []

    def tensors(self, finished: Finished = lambda name: None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Names and bytes u8 [n_rows, row_bytes] of the tensors, as they become ready."""
        self.x, self.y = (self.original.embedded(self.tokens, self.memory) for _ in range(2))
        self.plain: F32 | None = self.y[self.n_learned :].copy()
        for i, block in enumerate(self.quantized.blocks):
            made: dict[str, tuple[NDArray[np.uint8], str]] = {}
            self._plain_made: dict[str, tuple[NDArray[np.uint8], str]] = {}
            with self.original.blocks[i].loaded(), block.loaded(), block.replaced_by(made), blas.threads(1):
                steps = zip(self.original.layers[i].steps(), self.quantized.layers[i].steps(), strict=True)
                for step, step_quantized in steps:
                    for name, data in self._step(step, step_quantized, finished):
                        made[name] = data, self.formats[name].name
                        block.reload(name)
                        yield name, data
            if self.plain is not None:
                with block.replaced_by(made | self._plain_made), block.loaded(), blas.threads(1):
                    for step in self.quantized.layers[i].steps():
                        self._advance(self.quantized, step, self.plain)

    def held_out_states(self) -> tuple[F32, F32, F32] | None:
        """Hidden states of the chunks held out, of the original, plainly rounded and with feedback, when all is made.

        Each f32 [n, n_ctx, n_embd], after the last layer. None if tensors of an earlier run were taken: how they would
        be plainly rounded is not known.
        """
        return None if self.plain is None else (self.x[self.n_learned :], self.plain, self.y[self.n_learned :])

    def _step(self, step: Any, step_quantized: Any, finished: Finished) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Quantize the step's weights, then take both hidden states through it."""
        groups = self._groups(step)
        advanced, kept = False, None
        for names, share in groups:
            done = {name: finished(name) for name in names}
            if any(data is not None for data in done.values()):
                self.plain = None
            if any(data is None for data in done.values()):
                if self._n_matrices(names[0]) > 1:
                    rounder = _MatrixRounder(*self._sums(names[0], step_quantized), self.settings)
                else:
                    advanced = names is groups[-1].names
                    *sums, kept = self._inputs(names[0], step, step_quantized, share, advanced)
                    rounder = _Rounder(*sums, self.settings)
            for name in names:
                if done[name] is None:
                    done[name], outcome, plain = rounder.round(
                        name, self.original.tensors.expand(name), self.formats[name]
                    )
                    self._plain_made[name] = plain, self.formats[name].name
                    self.outcomes += [outcome] if outcome else []
                yield name, done[name]
        if not advanced:
            self._advance(self.original, step, self.x)
        if kept:
            linear = _linear(self.quantized, groups[-1].names[0])
            for batch, rows in kept:
                self.y[batch] += linear(rows).reshape(self.y[batch].shape)
        else:
            self._advance(self.quantized, step_quantized, self.y)

    def _groups(self, step: Any) -> "list[Group]":
        """The step's weights that are to be quantized, by their input, in the order of their use."""
        seen: dict[int, tuple[F32, list[str]]] = {}  # keeps the inputs, so that no two have the same address

        def note(name: str, x: F32, expert: int | None = None) -> None:
            if all(name not in names for _, names in seen.values()):
                seen.setdefault(x.__array_interface__["data"][0], (x, []))[1].append(name)

        before = self.x[:1]
        with self.original.watched_by(note):
            change = step.work(before) - before
        groups = [([name for name in names if name in self.formats], x) for x, names in seen.values()]
        groups = [(names, x) for names, x in groups if names]
        if not groups:
            return []
        share, (last, x) = 0.0, groups[-1]
        if len(last) == 1 and self._n_matrices(last[0]) == 1:
            share = share_of(_linear(self.original, last[0])(x), change)
        return [*(Group(names, 0.0) for names, _ in groups[:-1]), Group(last, share)]

    def _inputs(
        self, name: str, step: Any, step_quantized: Any, share: float, advance: bool
    ) -> tuple[Inputs, Inputs, list[tuple[slice, F32]]]:
        """Sums over a weight's inputs: of the chunks that are learned from, and of those held out.

        share:    see `Group`
        advance:  on the way, take the original's hidden states through the step

        Also returns the inputs by batch of chunks, if they are all that the hidden states wait for; else none.
        """
        linear, n_cols = _linear(self.original, name), self.original.file.tensors[name].n_cols
        learned, held_out = (Inputs(n_cols, self.x.shape[-1] if share else 0) for _ in range(2))
        kept = []
        keeps = share == 1 and 4 * self.tokens.size * n_cols <= KEPT_BYTES
        for batch in self._batches(step):
            y = self.y[batch]
            x, _ = rows_into(self.quantized, step_quantized, y, name)
            f, out = rows_into(self.original, step, self.x[batch], name, to_the_end=advance)
            lacks = ((out - y) / np.float32(share)).reshape(len(x), -1) - linear(x) if share else f - x
            if advance:
                self.x[batch] = out
            if keeps:
                kept.append((batch, x))
            (held_out if batch.start >= self.n_learned else learned).add(x, lacks)
        return learned, held_out, kept

    def _n_matrices(self, name: str) -> int:
        ne = self.original.file.tensors[name].ne
        return ne[2] if len(ne) > 2 else 1

    def _sums(self, name: str, step_quantized: Any) -> tuple[F32, NDArray[np.float64]]:
        """Of each expert's (or head's) own inputs in the quantized model: sums of x^T x, and numbers of rows.

        All chunks are learned from: the router gives the same text to other experts, so nothing is paired or held out.
        """
        n_cols, n = self.original.file.tensors[name].n_cols, self._n_matrices(name)
        seconds, counts = np.zeros((n, n_cols, n_cols), np.float32), np.zeros(n)

        def add(seen: str, x: F32, expert: int | None = None) -> None:
            if seen == name:
                add_whole(x, seconds[expert])
                counts[expert] += len(x)

        with self.quantized.watched_by(add):
            for batch in self._batches(step_quantized):
                step_quantized.work(self.y[batch])
        return seconds, counts

    def _advance(self, model: Any, step: Any, x: F32) -> None:
        with model.watched_by(None):
            for batch in self._batches(step, len(x)):
                x[batch] = step.work(x[batch])

    def _batches(self, step: Any, n_chunks: int | None = None) -> list[slice]:
        """Chunks that are learned from, then those held out; or of others, a given number."""
        n = max(1, max(step.rows_per_batch, ROWS_PER_BATCH) // self.tokens.shape[1])
        n_chunks = len(self.tokens) if n_chunks is None else n_chunks
        cut = min(self.n_learned, n_chunks)
        bounds = [*range(0, cut, n), *range(cut, n_chunks, n), n_chunks]
        return [slice(a, b) for a, b in pairwise(bounds)]


class _Rounder:
    """Rounds weights that have the same input; `round` gives bytes, what they brought, and bytes without feedback."""

    def __init__(self, learned: Inputs, held_out: Inputs, settings: Settings):
        self.learned, self.held_out, self.settings = learned, held_out, settings
        self.importance = np.diagonal(learned.second) / max(learned.count, 1)
        self.h = damped(learned.second / max(learned.count, 1), settings.damping)
        self.feedback = Feedback(self.h, settings.passes)

    def round(self, name: str, weights: F32, fmt: BlockFormat) -> tuple[NDArray[np.uint8], Outcome, NDArray[np.uint8]]:
        target, strength = weights, 0.0
        if self.settings.correction:
            correction = corrections(weights, self.learned, self.h)
            strength = self.settings.correction * strengths(correction, weights, self.held_out)
            target = weights + np.float32(strength) * correction
        plain = quantize_rows(weights, fmt.name, self.importance, self.settings.search)
        if has_grid(fmt):
            data = self.feedback.round(target, fmt, self.importance, self.settings.search)
        else:  # no feedback, but the inputs are the true ones, and the target is corrected
            data = quantize_rows(target, fmt.name, self.importance, self.settings.search)
        rounded = [dequantize_rows(candidate, fmt.name, weights.shape[1]) for candidate in (plain, data)]
        errors = [excess_error(values, weights, self.held_out) for values in (rounded[0], target, rounded[1])]
        size = float(np.vdot(weights @ self.held_out.second, weights))
        outcome = Outcome(name, strength, *errors, size or 1.0)
        return plain if outcome.kept_plain else data, outcome, plain


class _MatrixRounder:
    """Rounds weights of several matrices that have the same inputs; what stands for plain bytes is the result, too."""

    def __init__(self, seconds: F32, counts: NDArray[np.float64], settings: Settings):
        self.seconds, self.counts = seconds, counts
        self.how = settings.search, settings.passes, settings.damping

    def round(self, name: str, weights: F32, fmt: BlockFormat) -> tuple[NDArray[np.uint8], None, NDArray[np.uint8]]:
        data = round_matrices(weights, fmt, self.seconds, self.counts, *self.how)
        return data, None, data


def rows_into(model: Any, step: Any, x: F32, name: str, to_the_end: bool = False) -> tuple[F32, F32 | None]:
    """The input rows f32 [n_rows, n_cols] of a weight when a batch of hidden states goes through a step.

    to_the_end: go on after that, and also return what comes out; else the step stops there
    """
    rows = out = None

    def watch(seen: str, x: F32, expert: int | None = None) -> None:
        nonlocal rows
        if seen == name and rows is None:
            rows = x
            if not to_the_end:
                raise Reached

    with model.watched_by(watch), suppress(Reached):
        out = step.work(x)
    return rows, out


def _linear(model: Any, name: str) -> Any:
    """A model's product with a weight."""
    return next(linear for block in model.blocks for linear in block.linears if linear.name == name)


def share_of(product: F32, change: F32) -> float:
    """The factor with which a product is the change of hidden states; 0 if it is not that alone, but for rounding."""
    product, change = product.reshape(-1).astype(np.float64), change.reshape(-1).astype(np.float64)
    if product.shape != change.shape or not product.any():
        return 0.0
    share = float(product @ change / (product @ product))
    share = 1.0 if abs(share - 1) < SAME**2 else share
    return share if np.linalg.norm(change - share * product) < SAME * np.linalg.norm(change) else 0.0

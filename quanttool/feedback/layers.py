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
from .rounding import DAMPING, Feedback, damped
from .target import corrections, excess_error, strengths

HELD_OUT = 8  # one chunk of so many is not learned from: it decides
SAME = 0.01  # relative difference below which a product is taken for a change of hidden states
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
    passes: int = 2
    correction: float = 1.0
    damping: float = DAMPING


class Outcome(NamedTuple):
    """What became of a tensor.

    correction:  how much of the correction of its target was taken
    plain, error:  squared output error on held-out text, plainly rounded and with feedback, less that of exact weights
    """

    name: str
    correction: float
    plain: float
    error: float

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
    outcomes:  of the tensors that were quantized so far
    """

    def __init__(
        self,
        original: Any,
        quantized: Any,
        formats: Mapping[str, BlockFormat],
        tokens: NDArray[np.int32],
        settings: Settings | None = None,
    ):
        self.original, self.quantized = original, quantized
        self.formats, self.settings = formats, settings or Settings()
        chunk = np.arange(len(tokens))
        held_out = (
            chunk % HELD_OUT == HELD_OUT - 1 - chunk // HELD_OUT % HELD_OUT
        )  # in no step with how a text was mixed
        self.tokens = np.concatenate([tokens[~held_out], tokens[held_out]])
        self.n_learned = int((~held_out).sum())
        self.outcomes: list[Outcome] = []

    def tensors(self, finished: Finished = lambda name: None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Names and bytes u8 [n_rows, row_bytes] of the tensors, as they become ready."""
        self.x, self.y = self.original.embed(self.tokens), self.original.embed(self.tokens)
        last = max((int(name.split(".")[1]) for name in self.formats), default=-1)
        for i in range(last + 1):
            block, made = self.quantized.blocks[i], {}
            with self.original.blocks[i].loaded(), block.loaded(), block.replaced_by(made), blas.threads(1):
                steps = zip(self.original.layers[i].steps(), self.quantized.layers[i].steps(), strict=True)
                for step, step_quantized in steps:
                    for name, data in self._step(step, step_quantized, finished):
                        made[name] = data, self.formats[name].name
                        block.reload(name)
                        yield name, data

    def _step(self, step: Any, step_quantized: Any, finished: Finished) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Quantize the step's weights, then take both hidden states through it."""
        groups = self._groups(step)
        advanced = False
        for names, share in groups:
            done = {name: finished(name) for name in names}
            if any(data is None for data in done.values()):
                if self._n_matrices(names[0]) > 1:
                    rounder = _MatrixRounder(*self._sums(names[0], step_quantized), self.settings)
                else:
                    advanced = names is groups[-1][0]
                    rounder = _Rounder(*self._inputs(names[0], step, step_quantized, share, advanced), self.settings)
            for name in names:
                if done[name] is None:
                    done[name], outcome = rounder.round(name, self.original.tensors.expand(name), self.formats[name])
                    self.outcomes += [outcome] if outcome else []
                yield name, done[name]
        if not advanced:
            self._advance(self.original, step, self.x)
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
        names, x = groups[-1]
        share = 0.0 if len(names) > 1 or self._n_matrices(names[0]) > 1 else share_of(self._linear(names[0])(x), change)
        return [*(Group(names, 0.0) for names, _ in groups[:-1]), Group(names, share)]

    def _linear(self, name: str) -> Any:
        """The original's product with a weight."""
        return next(linear for block in self.original.blocks for linear in block.linears if linear.name == name)

    def _inputs(self, name: str, step: Any, step_quantized: Any, share: float, advance: bool) -> tuple[Inputs, Inputs]:
        """Sums over a weight's inputs: of the chunks that are learned from, and of those held out.

        share:    see `Group`
        advance:  on the way, take the original's hidden states through the step
        """
        sums: list[Inputs | None] = [None, None]
        linear = self._linear(name)
        for batch in self._batches(step):
            y = self.y[batch]
            x, _ = rows_into(self.quantized, step_quantized, y, name)
            f, out = rows_into(self.original, step, self.x[batch], name, to_the_end=advance)
            lacks = ((out - y) / np.float32(share)).reshape(len(x), -1) - linear(x) if share else f - x
            if advance:
                self.x[batch] = out
            part = int(batch.start >= self.n_learned)
            sums[part] = sums[part] or Inputs(x.shape[1], lacks.shape[1] if share else 0)
            sums[part].add(x, lacks)
        return sums[0], sums[1] or Inputs(x.shape[1], lacks.shape[1] if share else 0)

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
            for batch in self._batches(step):
                x[batch] = step.work(x[batch])

    def _batches(self, step: Any) -> list[slice]:
        """Chunks that are learned from, then those held out."""
        n = max(1, max(step.rows_per_batch, ROWS_PER_BATCH) // self.tokens.shape[1])
        bounds = [*range(0, self.n_learned, n), *range(self.n_learned, len(self.tokens), n), len(self.tokens)]
        return [slice(a, b) for a, b in pairwise(bounds)]


class _Rounder:
    """Rounds weights that have the same input."""

    def __init__(self, learned: Inputs, held_out: Inputs, settings: Settings):
        self.learned, self.held_out, self.settings = learned, held_out, settings
        self.importance = np.diagonal(learned.second) / max(learned.count, 1)
        self.h = damped(learned.second / max(learned.count, 1), settings.damping)
        self.feedback = Feedback(self.h, settings.passes)

    def round(self, name: str, weights: F32, fmt: BlockFormat) -> tuple[NDArray[np.uint8], Outcome]:
        """Bytes of a weight f32 [n_rows, n_cols], and what its rounding brought."""
        target, strength = weights, 0.0
        if self.settings.correction:
            correction = corrections(weights, self.learned, self.h)
            strength = self.settings.correction * strengths(correction, weights, self.held_out)
            target = weights + np.float32(strength) * correction
        plain = quantize_rows(weights, fmt.name, self.importance, self.settings.search)
        if has_grid(fmt):
            data = self.feedback.round(target, fmt, self.importance, self.settings.search)
        else:  # codebooks: no feedback, but the inputs are the true ones, and the target is corrected
            data = quantize_rows(target, fmt.name, self.importance, self.settings.search)
        errors = [
            excess_error(dequantize_rows(candidate, fmt.name, weights.shape[1]), weights, self.held_out)
            for candidate in (plain, data)
        ]
        outcome = Outcome(name, strength, *errors)
        return plain if outcome.kept_plain else data, outcome


class _MatrixRounder:
    """Rounds weights of several matrices that have the same inputs."""

    def __init__(self, seconds: F32, counts: NDArray[np.float64], settings: Settings):
        self.seconds, self.counts = seconds, counts
        self.how = settings.search, settings.passes, settings.damping

    def round(self, name: str, weights: F32, fmt: BlockFormat) -> tuple[NDArray[np.uint8], None]:
        return round_matrices(weights, fmt, self.seconds, self.counts, *self.how), None


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


def share_of(product: F32, change: F32) -> float:
    """The factor with which a product is the change of hidden states; 0 if it is not that alone, but for rounding."""
    product, change = product.reshape(-1).astype(np.float64), change.reshape(-1).astype(np.float64)
    if product.shape != change.shape or not product.any():
        return 0.0
    share = float(product @ change / (product @ product))
    return share if np.linalg.norm(change - share * product) < SAME * np.linalg.norm(change) else 0.0

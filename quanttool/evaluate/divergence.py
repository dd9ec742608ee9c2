"""How far one model's predictions are from another's: Kullback-Leibler divergence and its company."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..kernels.log_softmax import add_divergence, add_overlap
from ..parallel import for_each_slab
from .predictions import ROWS_PER_THREAD, Logits, Normalizer, Part, Predictions, parts
from .statistics import Estimate, correlation, covariance, difference, exponential, mean, root, share

# Fractions of the sorted values that llama-perplexity prints
KLD_QUANTILES = (1.0, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001, 0.0)
DELTA_P_QUANTILES = (1.0, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001, 0.0)


@dataclass(frozen=True)
class Divergence:
    """A model compared with a base model, token by token; every array is [n_chunks, n_scored].

    nll_base, nll:  f64, -log p(target) in nats
    kld:            f64, divergence of the model's distribution from the base's, nats
    same_top:       bool, both find the same token most likely
    overlap:        f64, sum of min(p, q) over the vocabulary, if it was asked for
    """

    nll_base: NDArray[np.float64]
    nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    overlap: NDArray[np.float64] | None = None

    def first_chunks(self, n: int) -> "Divergence":
        """The same over the first n chunks."""
        overlap = None if self.overlap is None else self.overlap[:n]
        return Divergence(self.nll_base[:n], self.nll[:n], self.kld[:n], self.same_top[:n], overlap)

    @cached_property
    def ppl(self) -> Estimate:
        return exponential(mean(self.nll.ravel()))

    @cached_property
    def ppl_base(self) -> Estimate:
        return exponential(mean(self.nll_base.ravel()))

    @cached_property
    def log_ppl_ratio(self) -> Estimate:
        """Mean of ln(PPL / PPL of the base)."""
        return difference(self.nll.ravel(), self.nll_base.ravel())

    @cached_property
    def ppl_ratio(self) -> Estimate:
        return exponential(self.log_ppl_ratio)

    @cached_property
    def ppl_difference(self) -> Estimate:
        """PPL - PPL of the base; its uncertainty knows that the two go together."""
        together = self.ppl.value * self.ppl_base.value * covariance(self.nll.ravel(), self.nll_base.ravel())
        variance = self.ppl.uncertainty**2 + self.ppl_base.uncertainty**2 - 2 * together
        return Estimate(self.ppl.value - self.ppl_base.value, max(variance, 0.0) ** 0.5)

    @cached_property
    def log_ppl_correlation(self) -> float:
        return correlation(self.nll.ravel(), self.nll_base.ravel())

    @cached_property
    def mean_kld(self) -> Estimate:
        return mean(self.kld.ravel())

    @cached_property
    def delta_p(self) -> NDArray[np.float64]:
        """Change of the probability of the text's own token, -1 to 1: f64 [n_chunks, n_scored]."""
        return np.exp(-self.nll) - np.exp(-self.nll_base)

    @cached_property
    def mean_delta_p(self) -> Estimate:
        return mean(self.delta_p.ravel())

    @cached_property
    def rms_delta_p(self) -> Estimate:
        return root(mean(self.delta_p.ravel() ** 2))

    @cached_property
    def same_top_share(self) -> Estimate:
        return share(self.same_top.ravel())

    def kld_quantiles(self) -> dict[float, float]:
        """Fraction -> value, linearly interpolated."""
        return _quantiles(self.kld, KLD_QUANTILES)

    def delta_p_quantiles(self) -> dict[float, float]:
        return _quantiles(self.delta_p, DELTA_P_QUANTILES)


def _quantiles(values: NDArray[np.float64], fractions: Sequence[float]) -> dict[float, float]:
    return dict(zip(fractions, np.quantile(values, fractions).tolist(), strict=True))


def compare(
    base: Predictions, models: Sequence[Predictions], targets: NDArray[np.int32], overlap: bool = False
) -> list[Divergence]:
    """Compare models with a base on the same text, a few logits at a time.

    targets:  i32 [n_chunks, n_scored]
    overlap:  also take the overlap, which goes through all logits a second time

    Raises UsageError if the vocabularies differ in size, ModelError if logits are not finite.
    """
    for model in models:
        if model.n_vocab != base.n_vocab:
            raise UsageError(
                f"the vocabularies differ: the base model has {base.n_vocab} tokens, the other {model.n_vocab}; "
                "compare models of one family"
            )
    of_base = Normalizer(targets.ravel(), base.is_normalized)
    sums = [_DivergenceSums(targets.ravel(), base.floor) for _ in models]
    for part in parts([base, *models]):
        of_base.add(part, part.logits[0])
        for one, logits in zip(sums, part.logits[1:], strict=True):
            one.add(part, part.logits[0], logits, of_base.highest)
    base_lse, base_nll = of_base.lse(), of_base.nll()
    shared = (
        _overlaps(base, models, base_lse, [one.normalizer.lse() for one in sums]) if overlap else [None] * len(sums)
    )
    return [
        Divergence(
            nll_base=base_nll.reshape(targets.shape),
            nll=one.normalizer.nll().reshape(targets.shape),
            kld=one.divergence(base_lse).reshape(targets.shape),
            same_top=(one.normalizer.top == of_base.top).reshape(targets.shape),
            overlap=None if own is None else own.reshape(targets.shape),
        )
        for one, own in zip(sums, shared, strict=True)
    ]


class _DivergenceSums:
    """What is summed up for one model and every row; see `add_divergence`."""

    def __init__(self, targets: NDArray[np.int32], floor: float):
        self.normalizer, self._floor = Normalizer(targets), floor
        self._shift, self._weighted, self._mass = np.full(len(targets), -np.inf), *np.zeros((2, len(targets)))

    def add(self, part: Part, base: Logits, logits: Logits, highest: NDArray[np.float64]) -> None:
        self.normalizer.add(part, logits)
        highest = highest[part.rows]
        shift, weighted, mass = self._shift[part.rows], self._weighted[part.rows], self._mass[part.rows]

        def work(rows: slice) -> None:
            add_divergence(
                base[rows], logits[rows], self._floor, highest[rows], shift[rows], weighted[rows], mass[rows]
            )

        for_each_slab(work, len(logits), ROWS_PER_THREAD)

    def divergence(self, base_lse: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum of p * (log p - log q) of every row, with log p = base logit - base_lse and log q likewise."""
        offset = self.normalizer.lse() - base_lse
        return np.exp(self._shift - base_lse) * (self._weighted + self._mass * offset)


def _overlaps(
    base: Predictions,
    models: Sequence[Predictions],
    base_lse: NDArray[np.float64],
    lses: Sequence[NDArray[np.float64]],
) -> list[NDArray[np.float64]]:
    overlaps = [np.zeros(len(base_lse)) for _ in models]
    for part in parts([base, *models]):
        for logits, lse, overlap in zip(part.logits[1:], lses, overlaps, strict=True):
            arrays = part.logits[0], base_lse[part.rows], logits, lse[part.rows], overlap[part.rows]

            def work(rows: slice, arrays=arrays) -> None:
                add_overlap(*(array[rows] for array in arrays))

            for_each_slab(work, len(logits), ROWS_PER_THREAD)
    return overlaps

"""How far one model's predictions are from another's: Kullback-Leibler divergence and its company."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..kernels.log_softmax import kl_divergence
from ..parallel import for_each_slab
from .perplexity import ROWS_PER_THREAD, LanguageModel, Rows, normalizers, rows_at_a_time
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
    """

    nll_base: NDArray[np.float64]
    nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    same_top: NDArray[np.bool_]

    def first_chunks(self, n: int) -> "Divergence":
        """The same over the first n chunks."""
        return Divergence(self.nll_base[:n], self.nll[:n], self.kld[:n], self.same_top[:n])

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
    base: LanguageModel,
    models: Sequence[LanguageModel],
    base_hidden: Rows,
    hidden: Sequence[Rows],
    targets: NDArray[np.int32],
) -> list[Divergence]:
    """Compare models with a base model on the same text, a few rows of logits at a time.

    base_hidden, hidden:  f32 [n_chunks * n_scored, n_embd], each model's own scored hidden states
    targets:              i32 [n_chunks, n_scored]

    Raises UsageError if the vocabularies differ in size, ModelError if logits are not finite.
    """
    for model in models:
        if model.n_vocab != base.n_vocab:
            raise UsageError(
                f"the vocabularies differ: the base model has {base.n_vocab} tokens, the other {model.n_vocab}; "
                "compare models of one family"
            )
    results = [_empty(targets.shape) for _ in models]
    targets = targets.ravel()
    step = rows_at_a_time(base.n_vocab)
    for start in range(0, len(targets), step):
        rows = slice(start, start + step)
        target = np.arange(len(targets[rows])), targets[rows]
        base_logits = base.output_logits(base_hidden[rows])
        base_lse, base_top = normalizers(base_logits)
        for model, states, result in zip(models, hidden, results, strict=True):
            logits = model.output_logits(states[rows])
            lse, top = normalizers(logits)
            result.nll_base.reshape(-1)[rows] = base_lse - base_logits[target]
            result.nll.reshape(-1)[rows] = lse - logits[target]
            result.kld.reshape(-1)[rows] = _divergences(base_logits, base_lse, logits, lse)
            result.same_top.reshape(-1)[rows] = top == base_top
    return results


def _empty(shape: tuple[int, ...]) -> Divergence:
    return Divergence(np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape, bool))


def _divergences(base_logits, base_lse, logits, lse) -> NDArray[np.float64]:
    kld = np.empty(len(lse))

    def work(rows: slice) -> None:
        kl_divergence(base_logits[rows], base_lse[rows], logits[rows], lse[rows], kld[rows])

    for_each_slab(work, len(lse), ROWS_PER_THREAD)
    return kld

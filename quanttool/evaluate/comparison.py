"""Which of several models is better, and how sure that is: paired differences, block bootstrap.

All models see the same tokens, so what is compared is the difference token by token: what the tokens themselves do to
both models cancels. Neighbouring tokens do not count as independent: blocks of them are drawn, with replacement, and
the spread of the mean over such draws is the uncertainty (Künsch 1989, "The jackknife and the bootstrap for general
stationary observations").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

TOKENS_PER_BLOCK = 64  # of one chunk; differences of tokens this far apart are uncorrelated (docs/perplexity.md)
FEWEST_BLOCKS = 20  # fewer do not show how much they vary
RESAMPLES = 10_000
LEVEL = 0.95  # of the interval
COUNTS_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class Comparison:
    """The mean of `worse` minus that of `better`, over the same tokens.

    uncertainty: standard error; low, high: interval that holds the true difference with 95 %
    p: how likely a difference at least this far from 0 would be between equal models; 1 for equal values
    """

    better: str
    worse: str
    difference: float
    uncertainty: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        return self.p < 1 - LEVEL


def compare_pairs(
    values: Mapping[str, NDArray[np.float64]], tokens_per_block: int = TOKENS_PER_BLOCK, seed: int = 0
) -> list[Comparison]:
    """Compare every pair of models.

    values:            name -> f64 [n_chunks, n_scored], of which less is better: divergence, or -log p
    tokens_per_block:  about so many consecutive tokens are drawn together

    Returns pairs from the best model on; an empty list for less than 20 blocks, which say nothing about their spread.
    """
    names = sorted(values, key=lambda name: values[name].mean())
    sums, sizes = _block_sums(np.stack([values[name] for name in names]), tokens_per_block)
    if len(sizes) < FEWEST_BLOCKS:
        return []
    means = _resampled_means(sums, sizes, np.random.default_rng(seed))  # [RESAMPLES, n_models]
    exact = sums.sum(axis=0) / sizes.sum()
    return [
        _comparison(names[a], names[b], exact[b] - exact[a], means[:, b] - means[:, a])
        for a, b in combinations(range(len(names)), 2)
    ]


def _comparison(better: str, worse: str, difference: float, draws: NDArray[np.float64]) -> Comparison:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond_zero = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (1 + int(beyond_zero)) / (len(draws) + 1))
    return Comparison(better, worse, float(difference), float(draws.std()), float(low), float(high), p)


def _block_sums(values: NDArray[np.float64], tokens_per_block: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums over blocks, f64 [n_blocks, n_models], and their numbers of tokens; no block spans two chunks."""
    n_models, n_chunks, n_scored = values.shape
    per_chunk = max(1, round(n_scored / tokens_per_block))
    edges = np.arange(per_chunk) * n_scored // per_chunk
    sums = np.add.reduceat(values, edges, axis=2)  # [n_models, n_chunks, per_chunk]
    sizes = np.tile(np.diff([*edges, n_scored]), n_chunks)
    return sums.reshape(n_models, -1).T, sizes


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of every model over blocks drawn with replacement, the same draws for all: [RESAMPLES, n_models]."""
    n, means = len(sizes), []
    step = max(1, COUNTS_AT_A_TIME // n)
    for start in range(0, RESAMPLES, step):
        n_draws = min(step, RESAMPLES - start)
        drawn = rng.integers(n, size=(n_draws, n)) + n * np.arange(n_draws)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_draws * n).reshape(n_draws, n).astype(np.float64)
        # einsum, not BLAS: equal columns must give equal sums, whatever their place in the matrix
        means.append(np.einsum("dn,nm->dm", counts, sums) / (counts @ sizes)[:, None])
    return np.concatenate(means)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other beats: no other is as small in both coordinates and smaller in one."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    return [not any(beats(other, point) for other in points) for point in points]

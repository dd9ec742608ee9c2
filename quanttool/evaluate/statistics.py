"""Means with their uncertainty, as llama-perplexity computes them (perplexity.cpp, function kl_divergence).

An uncertainty is the standard error of a mean: the tokens' values count as independent draws.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
FEWEST_FOR_UNCERTAINTY = 10  # fewer values say nothing about their spread


class Estimate(NamedTuple):
    """A number and its standard error, in the same unit."""

    value: float
    uncertainty: float


def mean(values: Values) -> Estimate:
    """Mean and standard error of the values."""
    return Estimate(float(values.mean()), covariance(values, values) ** 0.5)


def covariance(a: Values, b: Values) -> float:
    """Covariance of the means of two paired series; 0 for too few values."""
    if a.size <= FEWEST_FOR_UNCERTAINTY:
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean()))) / (a.size - 1)


def correlation(a: Values, b: Values) -> float:
    """Correlation of two paired series; 0 if one of them does not vary."""
    spread = (covariance(a, a) * covariance(b, b)) ** 0.5
    return covariance(a, b) / spread if spread else 0.0


def difference(a: Values, b: Values) -> Estimate:
    """Mean of a - b; that the series are paired makes its uncertainty small."""
    return mean(a - b)


def exponential(estimate: Estimate) -> Estimate:
    """exp of a mean, with first-order propagation of its uncertainty."""
    value = float(np.exp(estimate.value))
    return Estimate(value, value * estimate.uncertainty)


def root(estimate: Estimate) -> Estimate:
    """Square root of a mean of squares, with first-order propagation."""
    value = estimate.value**0.5
    return Estimate(value, 0.5 / value * estimate.uncertainty if value else 0.0)


def share(hits: NDArray[np.bool_]) -> Estimate:
    """Share of hits, with its binomial uncertainty."""
    value = float(hits.mean())
    return Estimate(value, (value * (1 - value) / (hits.size - 1)) ** 0.5 if hits.size > 1 else 0.0)

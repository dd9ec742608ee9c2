"""Perplexity: the exponential of the mean negative log-likelihood of the scored tokens."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .statistics import Estimate, exponential, mean


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

"""How good a model is as a draft of another in speculative sampling (Leviathan et al. 2023, Chen et al. 2023).

The draft q proposes k tokens; the target p accepts each with probability min(1, p / q), and adds one token of its own
after the last accepted one. A token proposed at some place is therefore accepted with probability sum min(p, q). That
the first i are all accepted has the probability sum over x_1 ... x_i of prod min(p, q), which is the mean over texts
that p writes of prod min(1, q(x_j) / p(x_j)): what is averaged here, with the last factor replaced by its mean,
sum min(p, q). It is exact for text as the target writes it, and an estimate for other text.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .divergence import Divergence
from .statistics import Estimate, mean, share

LONGEST_DRAFT = 16


@dataclass(frozen=True)
class Draft:
    """A model as draft of the base it was compared with. divergence: with its overlap."""

    divergence: Divergence

    @cached_property
    def acceptance(self) -> Estimate:
        """Share of proposed tokens that are accepted where all before them were: mean of sum min(p, q)."""
        return mean(self.divergence.overlap.ravel())

    @cached_property
    def greedy_agreement(self) -> Estimate:
        """The same without sampling: both find the same token most likely."""
        return share(self.divergence.same_top.ravel())

    def tokens_per_pass(self, longest: int = LONGEST_DRAFT) -> list[float]:
        """Expected tokens per pass of the target, for draft lengths 1 to `longest` (or a chunk's scored tokens)."""
        d = self.divergence
        return _expected_tokens(np.exp(np.minimum(0.0, d.nll_base - d.nll)), d.overlap, longest)

    def greedy_tokens_per_pass(self, longest: int = LONGEST_DRAFT) -> list[float]:
        """The same without sampling."""
        same = self.divergence.same_top.astype(np.float64)
        return _expected_tokens(same, same, longest)


def _expected_tokens(passed: NDArray[np.float64], last: NDArray[np.float64], longest: int) -> list[float]:
    """1 + the probabilities that the first 1, 2, ... tokens are accepted.

    passed, last: f64 [n_chunks, n_scored]; a run of i tokens counts the product of `passed` over all but its last
    token, and `last` of that
    """
    expected, total = [], 1.0
    so_far = np.ones_like(passed)
    for i in range(1, min(longest, passed.shape[1]) + 1):
        n_starts = passed.shape[1] - i + 1
        total += float((so_far[:, :n_starts] * last[:, i - 1 :]).mean())
        expected.append(total)
        so_far = so_far[:, :n_starts] * passed[:, i - 1 :]
    return expected

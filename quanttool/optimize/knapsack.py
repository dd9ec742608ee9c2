"""A multiple-choice knapsack with several limits: one option of every item, least cost, no limit exceeded.

The linear relaxation gives a bound and a price per limit. Options that cost more at these prices than the gap to a
known solution cannot be part of a better one; what is left is small, and HiGHS solves it (Pisinger, "A minimal
algorithm for the multiple-choice knapsack problem", 1995, calls it the core).
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError, UsageError

SECONDS = 3.0  # that the search may take; after that the best solution so far, with its bound
SCALE = 1e4  # of the relaxation's optimum: HiGHS stops at an absolute gap of 1e-6, which then is 1e-10 of the cost
CORE = 1.6  # options per item that a first search is made among, for a better solution to leave options out by
TIGHTENINGS = 5  # attempts to get below limits that HiGHS, which works with tolerances, has passed by a little


@dataclass(frozen=True)
class Item:
    """One thing to choose for.

    costs:  f64 [n_options]
    uses:   f64 [n_options, n_limits], what an option takes of each limit
    """

    costs: NDArray[np.float64]
    uses: NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """One option per item.

    chosen:   i64 [n_items], index of the option
    cost:     sum of the chosen options' costs
    bound:    no solution costs less
    prices:   f64 [n_limits], by how much the cost would fall per unit of the limit (of the relaxation, at its optimum)
    """

    chosen: NDArray[np.int64]
    cost: float
    bound: float
    prices: NDArray[np.float64]

    @property
    def gap(self) -> float:
        """Relative distance from the bound; 0 for a proven optimum."""
        return max(0.0, (self.cost - self.bound) / self.cost) if self.cost > 0 else 0.0


def feasible_range(items: Sequence[Item]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the most that all items together can take of each limit: two of f64 [n_limits]."""
    return sum(item.uses.min(axis=0) for item in items), sum(item.uses.max(axis=0) for item in items)


def solve(items: Sequence[Item], limits: Sequence[float], seconds: float = SECONDS) -> Solution:
    """Choose one option per item so that the costs are least and the uses add up to at most `limits`.

    limits:   [n_limits], positive
    seconds:  for the search; the relaxation takes its own time, 0.3 s for 1,200 items of 30 options

    Raises RecipeError if nothing fits, UsageError if scipy is missing.
    """
    deadline = time.monotonic() + seconds
    limits = np.asarray(limits, np.float64)
    least, _ = feasible_range(items)
    if (least > limits).any() or (limits <= 0).any():
        raise RecipeError("no choice fits into the limits")
    table = _Table.of(items)
    tightened = limits.copy()
    relaxed, prices = table.relaxation(limits)
    for _ in range(TIGHTENINGS):
        picked, bound = table.search(tightened, prices, deadline)
        excess = table.uses[picked].sum(axis=0) - limits
        if (excess <= 0).all():
            cost = float(table.costs[picked].sum())
            # A bound found below tightened limits says nothing about the given ones.
            proven = bound if (tightened == limits).all() else relaxed
            return Solution(table.options[picked], cost, min(cost, max(proven, relaxed)), prices)
        tightened -= np.where(excess > 0, 2 * excess, 0)
        if (least > tightened).any():
            break
    raise RecipeError("no choice fits into the limits; give a little more room")


@dataclass(frozen=True)
class _Table:
    """All options that no other option of the same item beats in cost and every use, one a row."""

    owner: NDArray[np.int64]  # [n], the item
    options: NDArray[np.int64]  # [n], index of the option in its item
    costs: NDArray[np.float64]  # [n]
    uses: NDArray[np.float64]  # [n, n_limits]

    @classmethod
    def of(cls, items: Sequence[Item]) -> "_Table":
        kept = [_not_dominated(item) for item in items]
        return cls(
            np.repeat(np.arange(len(items)), [len(k) for k in kept]),
            np.concatenate(kept),
            np.concatenate([item.costs[k] for item, k in zip(items, kept, strict=True)]),
            np.concatenate([item.uses[k] for item, k in zip(items, kept, strict=True)]),
        )

    def _one_each(self, rows: NDArray[np.int64]):
        """Sparse [n_items, n]: 1 where a row is an option of the item."""
        from scipy.sparse import csr_matrix

        n_items = self.owner[-1] + 1
        return csr_matrix((np.ones(len(rows)), (self.owner[rows], np.arange(len(rows)))), shape=(n_items, len(rows)))

    def relaxation(self, limits: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Least cost if options could be mixed, a bound from below; and the price of each limit there.

        The bound is that of the prices, which holds however precise the solver was. Raises RecipeError if nothing fits.
        """
        linprog = _scipy_optimize().linprog
        everything = np.arange(len(self.costs))
        unit = self._unit()
        result = linprog(
            self.costs / unit,
            A_ub=(self.uses / limits).T,
            b_ub=np.ones(len(limits)),
            A_eq=self._one_each(everything),
            b_eq=np.ones(self.owner[-1] + 1),
            method="highs",
        )
        if result.x is None:
            raise RecipeError("no choice fits into all limits at once")
        prices = np.maximum(-result.ineqlin.marginals, 0) * unit / limits
        return float(self._least(self.costs + self.uses @ prices).sum() - prices @ limits), prices

    def search(
        self, limits: NDArray[np.float64], prices: NDArray[np.float64], deadline: float
    ) -> tuple[NDArray[np.int64], float]:
        """Rows of the best choice, one per item, and a bound on the cost of any."""
        priced = self.costs + self.uses @ prices
        least = self._least(priced)
        excess = priced - least[self.owner]  # what choosing an option adds to the bound at least
        bound = float(least.sum() - prices @ limits)
        known = self._greedy(priced, limits)
        threshold = np.inf if known is None else float(self.costs[known].sum()) - bound
        if known is not None and threshold <= 0:
            return known, bound
        core = np.flatnonzero(excess <= threshold * (1 + 1e-9))  # no other option can be part of a better choice
        n_nearest = int(CORE * (self.owner[-1] + 1)) + 100
        if known is not None and len(core) > n_nearest:
            nearest = np.union1d(np.argsort(excess, kind="stable")[:n_nearest], known)
            if better := self._highs(nearest, limits, max(abs(bound), threshold), (deadline - time.monotonic()) / 2):
                known = min(known, better[0], key=lambda rows: self.costs[rows].sum())
                threshold = float(self.costs[known].sum()) - bound
                core = np.flatnonzero(excess <= threshold * (1 + 1e-9))
        found = self._highs(core, limits, max(abs(bound), min(threshold, self._unit())), deadline - time.monotonic())
        if found is None:
            if known is None:
                raise RecipeError("no choice fits into all limits at once")
            return known, bound
        if known is not None and self.costs[known].sum() < self.costs[found[0]].sum():
            return known, found[1]
        return found

    def _greedy(self, priced: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """Rows of a good choice that fits: the cheapest at the prices, made to fit, then filled up. None if stuck."""
        starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
        size = (self.uses / limits).sum(axis=1)
        order = np.lexsort((size, priced, self.owner))
        chosen = order[starts]  # the first of each item
        used = self.uses[chosen].sum(axis=0)
        for _ in range(len(self.costs)):
            now = chosen[self.owner]
            use, cost = self.uses - self.uses[now], self.costs - self.costs[now]
            over = used > limits
            if over.any():
                relief = -(use / limits)[:, over].sum(axis=1)
                rate = np.where(relief > 0, cost / np.where(relief > 0, relief, 1), np.inf)
            else:
                rate = np.where((used + use <= limits).all(axis=1) & (cost < 0), cost, np.inf)
            best = int(rate.argmin())
            if rate[best] == np.inf:
                return None if over.any() else chosen
            used = used + use[best]
            chosen[self.owner[best]] = best
        return None

    def _highs(
        self, rows: NDArray[np.int64], limits: NDArray[np.float64], unit: float, seconds: float
    ) -> tuple[NDArray[np.int64], float] | None:
        optimize = _scipy_optimize()
        unit = unit / SCALE
        if seconds <= 0:
            return None
        with _silent_stdout():
            result = optimize.milp(
                self.costs[rows] / unit,
                integrality=np.ones(len(rows)),
                bounds=optimize.Bounds(0, 1),
                constraints=[
                    optimize.LinearConstraint(self._one_each(rows), 1, 1),
                    optimize.LinearConstraint((self.uses[rows] / limits).T, -np.inf, 1),
                ],
                options={"time_limit": seconds, "mip_rel_gap": 0},
            )
        if result.x is None:
            return None
        return rows[np.flatnonzero(result.x > 0.5)], float(result.mip_dual_bound * unit)

    def _unit(self) -> float:
        return float(self.costs.max()) or 1.0

    def _least(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The least value of each item's options: f64 [n] -> f64 [n_items]."""
        return np.minimum.reduceat(values, np.flatnonzero(np.diff(self.owner, prepend=-1)))


def _not_dominated(item: Item) -> NDArray[np.int64]:
    """Options that no other beats or equals in everything; of equal ones the first."""
    order = np.lexsort((*item.uses.T, item.costs))  # a dominating option comes before those that it dominates
    kept: list[int] = []
    for option in order:
        if not any((item.uses[other] <= item.uses[option]).all() for other in kept):
            kept.append(option)
    return np.array(sorted(kept))


def _scipy_optimize():
    try:
        from scipy import optimize
    except ImportError:
        raise UsageError("the optimizer needs scipy; install it with: pip install 'quanttool[optimize]'") from None
    return optimize


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS writes lines about itself to standard output (1.12: transformNewIntegerFeasibleSolution)."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)

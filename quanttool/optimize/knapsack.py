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
SCALE = 1e4  # of optimum and limits: HiGHS works with absolute tolerances of 1e-6, which then are 1e-10 of each
TOLERANCE = 2e-6  # of what it takes for an integer: a choice within this of a limit may be above it
CORE = 1.6  # options per item that a first search is made among, for a better solution to leave options out by
NEAREST, SWAPS = 500, 300  # options that pairs are tried of, and pairs that are swapped at most


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
    seconds:  for the search, of wall time; 0 takes what swapping found. The rest takes its own time, at most 1 s for
              1,200 items of 30 options

    Raises RecipeError if nothing fits, UsageError if scipy is missing.
    """
    deadline = time.monotonic() + seconds
    limits = np.asarray(limits, np.float64)
    least, _ = feasible_range(items)
    if (least > limits).any() or (limits <= 0).any():
        raise RecipeError("no choice fits into the limits")
    table = _Table.of(items)
    relaxed, prices = table.relaxation(limits)
    picked, bound = table.search(limits, prices, deadline)
    if picked is None:
        raise RecipeError("no choice fits into all limits at once; give a little more room")
    cost = float(table.costs[picked].sum())
    return Solution(table.options[picked], cost, min(cost, max(bound, relaxed)), prices)


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
    ) -> tuple[NDArray[np.int64] | None, float]:
        """Rows of the best choice, one per item, and a bound on the cost of any; None if none that fits was found."""
        priced = self.costs + self.uses @ prices
        least = self._least(priced)
        excess = priced - least[self.owner]  # what choosing an option adds to the bound at least
        bound = float(least.sum() - prices @ limits)
        known = self._improved(self._cheapest(priced, limits), excess, limits)
        core = self._core(known, excess, bound)
        n_nearest = int(CORE * (self.owner[-1] + 1)) + 100
        if known is not None and len(core) > n_nearest:
            nearest = np.union1d(np.argsort(excess, kind="stable")[:n_nearest], known)
            known, _ = self._better(known, nearest, excess, limits, bound, (deadline - time.monotonic()) / 2)
            core = self._core(known, excess, bound)
        return self._better(known, core, excess, limits, bound, deadline - time.monotonic())

    def _core(self, known: NDArray[np.int64] | None, excess: NDArray[np.float64], bound: float) -> NDArray[np.int64]:
        """Rows that can be part of a choice better than a known one."""
        return np.flatnonzero(excess <= (self._cost(known) - bound) * (1 + 1e-9))

    def _better(
        self,
        known: NDArray[np.int64] | None,
        rows: NDArray[np.int64],
        excess: NDArray[np.float64],
        limits: NDArray[np.float64],
        bound: float,
        seconds: float,
    ) -> tuple[NDArray[np.int64] | None, float]:
        """The best choice among some rows or the known one, and a bound on what any among these rows costs."""
        gap, proven, deadline = self._cost(known) - bound, bound, time.monotonic() + seconds
        # HiGHS takes a millionth for nothing, of gigabytes kilobytes: what it finds may have to be made to fit.
        for amounts in (limits, limits * (1 - TOLERANCE)):
            left = deadline - time.monotonic()
            if gap <= 0 or left <= 0:
                break
            found = self._highs(rows, amounts, max(abs(bound), min(gap, self._unit())), left)
            if found is None:
                break
            proven = max(proven, found[1]) if amounts is limits else proven
            known = min(known, self._improved(found[0], excess, limits), key=self._cost)
            if (self.uses[found[0]].sum(axis=0) <= limits).all():
                break
        return known, proven

    def _improved(
        self, chosen: NDArray[np.int64], excess: NDArray[np.float64], limits: NDArray[np.float64]
    ) -> NDArray[np.int64] | None:
        fitted = self._fitted(chosen, limits)
        return None if fitted is None else self._swapped(fitted, excess, limits)

    def _cheapest(self, priced: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows of each item's cheapest option at the prices, of equal ones the smallest."""
        size = (self.uses / limits).sum(axis=1)
        return np.lexsort((size, priced, self.owner))[np.flatnonzero(np.diff(self.owner, prepend=-1))]

    def _fitted(self, chosen: NDArray[np.int64], limits: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """A choice made to fit, at the least cost per room, then filled up, by changing one item at a time."""
        chosen = chosen.copy()
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

    def _swapped(
        self, chosen: NDArray[np.int64], excess: NDArray[np.float64], limits: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """A choice that fits made better by changing two items at a time, among the options nearest to the prices."""
        chosen = chosen.copy()
        near = np.argsort(excess, kind="stable")[:NEAREST]
        owner = self.owner[near]
        for _ in range(SWAPS):
            now = chosen[owner]
            cost, use = self.costs[near] - self.costs[now], self.uses[near] - self.uses[now]
            room = limits - self.uses[chosen].sum(axis=0)
            saved = cost[:, None] + cost
            saved[owner[:, None] == owner] = 0
            for one, left in zip(use.T, room, strict=True):
                saved[one[:, None] + one > left] = 0
            i, j = divmod(int(saved.argmin()), len(near))
            if saved[i, j] >= 0:
                break
            chosen[owner[[i, j]]] = near[[i, j]]
        return chosen

    def _highs(
        self, rows: NDArray[np.int64], limits: NDArray[np.float64], unit: float, seconds: float
    ) -> tuple[NDArray[np.int64], float] | None:
        """Rows of the best choice among some, a little above limits at most, and a bound; None if none was found."""
        optimize = _scipy_optimize()
        unit = unit / SCALE
        with _silent_stdout():
            result = optimize.milp(
                self.costs[rows] / unit,
                integrality=np.ones(len(rows)),
                bounds=optimize.Bounds(0, 1),
                constraints=[
                    optimize.LinearConstraint(self._one_each(rows), 1, 1),
                    optimize.LinearConstraint((self.uses[rows] / limits).T * SCALE, -np.inf, SCALE),
                ],
                options={"time_limit": seconds, "mip_rel_gap": 0},
            )
        if result.x is None:
            return None
        return rows[np.flatnonzero(result.x > 0.5)], float(result.mip_dual_bound * unit)

    def _cost(self, rows: NDArray[np.int64] | None) -> float:
        return np.inf if rows is None else float(self.costs[rows].sum())

    def _unit(self) -> float:
        return float(self.costs.max()) or 1.0

    def _least(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The least value of each item's options: f64 [n] -> f64 [n_items]."""
        return np.minimum.reduceat(values, np.flatnonzero(np.diff(self.owner, prepend=-1)))


def _not_dominated(item: Item) -> NDArray[np.int64]:
    """Options that no other beats or equals in everything; of equal ones the first."""
    order = np.lexsort((*item.uses.T, item.costs))  # a dominating option comes before those that it dominates
    uses = item.uses[order]
    beaten = (uses[:, None] <= uses).all(axis=2)  # [by, whom]
    return np.sort(order[~np.triu(beaten, 1).any(axis=0)])


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

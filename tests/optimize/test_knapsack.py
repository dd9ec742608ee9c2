"""The knapsack against trying everything."""

import itertools

import numpy as np
import pytest

from quanttool.errors import RecipeError
from quanttool.optimize.knapsack import Item, feasible_range, solve


def brute_force(items, limits):
    """Least cost over all choices that fit, or None."""
    best = None
    for choice in itertools.product(*(range(len(item.costs)) for item in items)):
        uses = sum(item.uses[option] for item, option in zip(items, choice, strict=True))
        if (uses <= limits).all():
            cost = sum(item.costs[option] for item, option in zip(items, choice, strict=True))
            best = cost if best is None else min(best, cost)
    return best


def small(seed):
    rng = np.random.default_rng(seed)
    n_items, n_options, n_limits = rng.integers(2, 6), rng.integers(2, 6), rng.integers(1, 4)
    items = [
        Item(np.round(rng.random(n_options), 2), rng.integers(1, 30, (n_options, n_limits)).astype(float))
        for _ in range(n_items)
    ]
    return items, rng.integers(5 * n_items, 22 * n_items, n_limits).astype(float)


def test_small_problems_are_solved_like_trying_everything():
    impossible = 0
    for seed in range(150):
        items, limits = small(seed)
        best = brute_force(items, limits)
        if best is None:
            impossible += 1
            with pytest.raises(RecipeError, match="fits"):
                solve(items, limits)
            continue
        found = solve(items, limits)
        uses = sum(item.uses[option] for item, option in zip(items, found.chosen, strict=True))
        assert (uses <= limits).all(), seed
        assert found.cost == pytest.approx(best, abs=1e-9), seed
        assert found.bound <= best + 1e-9, seed
    assert 5 < impossible < 100  # both kinds were met


def test_a_choice_a_byte_too_large_is_not_taken():
    """HiGHS takes a millionth of a limit for nothing: of gigabytes, kilobytes. As much may be lost by it."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        items = [Item(rng.random(4), np.round(rng.random((4, 1)) * 1e9)) for _ in range(4)]
        loose = solve(items, [2e9])
        limit = sum(item.uses[option] for item, option in zip(items, loose.chosen, strict=True)) - 1
        found = solve(items, limit)
        assert sum(item.uses[option] for item, option in zip(items, found.chosen, strict=True)) <= limit
        assert found.bound - 1e-12 <= brute_force(items, limit) <= found.cost + 1e-12, seed
        assert found.cost <= brute_force(items, limit * (1 - 1e-6)) + 1e-12, seed


def test_without_time_to_search_the_bound_still_holds():
    for seed in range(60):
        items, limits = small(seed)
        best = brute_force(items, limits)
        try:
            found = solve(items, limits, seconds=0)
        except RecipeError:  # what changes of one tensor at a time do not reach
            continue
        assert found.bound - 1e-9 <= best <= found.cost + 1e-9, seed
        assert (sum(item.uses[o] for item, o in zip(items, found.chosen, strict=True)) <= limits).all(), seed


def test_a_large_problem_comes_within_its_bound():
    rng = np.random.default_rng(1)
    bpw = np.sort(rng.uniform(1.7, 8.5, 12))
    sizes = rng.choice([4e6, 1.6e6, 16e6], 200)
    gains = np.exp(rng.normal(0, 1.5, 200))
    items = [
        Item(gain * np.exp(-1.35 * bpw) * np.exp(rng.normal(0, 0.15, 12)), np.round(size * bpw)[:, None])
        for gain, size in zip(gains, sizes, strict=True)
    ]
    limit = 2.3 * feasible_range(items)[0]
    found = solve(items, limit)
    assert found.gap < 1e-3
    assert sum(item.uses[o, 0] for item, o in zip(items, found.chosen, strict=True)) <= limit[0]
    # The price is the slope of the cost: 1 % more room is worth about that much.
    more = solve(items, 1.01 * limit)
    assert found.cost - more.cost == pytest.approx(found.prices[0] * 0.01 * limit[0], rel=0.1)


def test_a_limit_that_all_of_it_meets_has_no_price():
    items = [Item(np.array([3.0, 1.0]), np.array([[1.0], [2.0]])) for _ in range(3)]
    found = solve(items, [100.0])
    assert found.chosen.tolist() == [1, 1, 1]
    assert found.cost == found.bound == 3.0
    assert found.prices.tolist() == [0.0]


def test_options_that_cost_nothing():
    items = [Item(np.zeros(2), np.array([[1.0], [2.0]])) for _ in range(2)]
    assert solve(items, [3.0]).cost == 0.0

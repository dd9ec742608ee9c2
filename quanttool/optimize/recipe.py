"""From wishes to a recipe: budgets as limits, and a file that is not a byte larger than it may be."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..container import TensorInfo
from ..errors import RecipeError, UsageError
from ..ggml_types import GGMLType
from ..recipes.extract import extract
from ..recipes.recipe import Recipe
from .allocation import Allocation, Limit, Problem, n_bytes
from .knapsack import SECONDS

ATTEMPTS = 6  # at a file size: the header holds the recipe, whose length is known only afterwards


@dataclass(frozen=True)
class Budget:
    """What the result may take; None and () are no limit.

    file_bytes:  of the whole file, header and padding included
    bpw:         bits per weight over all tensors
    classes:     (pattern, bytes): tensors whose name contains a match take at most so much in the file; a tensor
                 belongs to the first class that matches
    seconds:     per token; needs `seconds_of`
    seconds_of:  seconds per token that a tensor takes in a type
    """

    file_bytes: int | None = None
    bpw: float | None = None
    classes: tuple[tuple[re.Pattern[str], int], ...] = ()
    seconds: float | None = None
    seconds_of: Callable[[TensorInfo, GGMLType], float] | None = None

    def limits(self, problem: Problem) -> list[Limit]:
        """As limits of the problem, without the header."""
        padded = problem.wishes.padded_bytes
        limits = []
        if self.file_bytes is not None:
            limits.append(Limit("file", self.file_bytes, padded))
        if self.bpw is not None:
            n_values = sum(tensor.n_values for tensor in problem.tensors)
            limits.append(Limit("tensors", self.bpw * n_values / 8, n_bytes))
        for i, (pattern, amount) in enumerate(self.classes):
            limits.append(Limit(f"class {pattern.pattern}", amount, self._class_bytes(i, padded)))
        if self.seconds is not None:
            limits.append(Limit("seconds per token", self.seconds, self.seconds_of))
        return limits

    def _class_bytes(self, number: int, padded: Callable[[TensorInfo, GGMLType], int]) -> Callable:
        def use(tensor: TensorInfo, kind: GGMLType) -> int:
            first = next((i for i, (pattern, _) in enumerate(self.classes) if pattern.search(tensor.name)), None)
            return padded(tensor, kind) if first == number else 0

        return use


def smallest_divergence(
    problem: Problem, budget: Budget, file_bytes: Callable[[Allocation], int] | None = None
) -> Allocation:
    """The allocation with the least divergence within a budget.

    file_bytes:  size of the file that an allocation makes; default: the sum of its padded tensors

    Raises RecipeError if nothing fits.
    """
    limits = budget.limits(problem)
    if not limits:
        raise UsageError("without a limit every tensor gets its best type; give a size, bits per weight or a class")
    if budget.file_bytes is None or file_bytes is None:
        return problem.minimize_divergence(limits)
    deadline = time.monotonic() + SECONDS
    header = 0
    for attempt in range(ATTEMPTS):
        limits[0] = replace(limits[0], amount=budget.file_bytes - header)
        # The first only says how long the header is.
        allocation = problem.minimize_divergence(limits, max(0.0, deadline - time.monotonic()) if attempt else 0.0)
        found = file_bytes(allocation)
        if attempt and found <= budget.file_bytes:
            return allocation
        excess = max(0, found - budget.file_bytes) if attempt else 0
        header = max(header + excess, found - round(allocation.ranges[0].used))
    raise RecipeError(f"no recipe makes a file of {budget.file_bytes:,} bytes; give a little more room")


def smallest_file(problem: Problem, total: float, budget: Budget) -> Allocation:
    """The allocation with the fewest bytes whose costs add up to at most `total`, within a budget."""
    limits = [problem.divergence_limit(total), *budget.limits(problem)]
    return problem.minimize(problem.wishes.padded_bytes, limits)


def as_recipe(tensors: Iterable[TensorInfo], arch: str, allocation: Allocation, name: str, notes: str) -> Recipe:
    """The allocation as rules that quantize takes."""
    typed = [TensorInfo(tensor.name, allocation.types[tensor.name], tensor.ne) for tensor in tensors]
    return replace(extract(typed, arch, name), notes=notes)

"""A few hundred of the cases that benchmarks/fuzz.py makes by the hundred thousand."""

import pytest

from benchmarks.fuzz import TARGETS, fuzz


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_gives_a_result_or_an_error_of_ours(target):
    found = fuzz(target, seed=0, cases=400)
    assert found.cases == 400 and found.accepted > 0
    assert [wrong for wrong, _ in found.wrong] == []

"""Sums over inputs, against float64."""

import numpy as np
import pytest

from quanttool.feedback import covariance
from quanttool.feedback.covariance import Inputs
from quanttool.kernels.jit import processor_has
from quanttool.parallel import use_threads

KINDS = [True, False] if processor_has("avx512bf16") else [False]


def rows(n: int, n_cols: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n_cols), dtype=np.float32)


@pytest.mark.parametrize("bf16", KINDS)
@pytest.mark.parametrize("n, n_cols, n_out", [(64, 288, 0), (65, 100, 0), (30, 288, 70), (31, 540, 300)])
def test_sums_are_those_of_float64_but_for_rounding(bf16, n, n_cols, n_out, monkeypatch):
    monkeypatch.setattr(covariance, "processor_has", lambda feature: bf16)
    inputs, x, lacks = Inputs(n_cols, n_out), rows(2 * n, n_cols, 1), rows(2 * n, n_out or n_cols, 2)
    inputs.add(x[:n], lacks[:n])
    inputs.add(x[n:], lacks[n:])
    assert inputs.count == 2 * n
    exact, tolerance = x.astype(np.float64), 2**-7 if bf16 else 2**-20
    size = np.abs(exact).T
    assert (np.abs(inputs.second - exact.T @ exact) <= tolerance * (size @ size.T)).all()
    found = inputs.lacks if n_out else inputs.cross
    assert (np.abs(found - lacks.T.astype(np.float64) @ exact) <= tolerance * (np.abs(lacks).T @ size.T)).all()


@pytest.mark.skipif(not processor_has("avx512bf16"), reason="this processor has no bfloat16 products")
def test_operands_are_rounded_to_the_nearest_bfloat16():
    x = np.zeros((2, 32), np.float32)
    x[0, :3] = 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20  # ties go to even
    inputs = Inputs(32)
    inputs.add(x, x)
    assert list(np.diagonal(inputs.second)[:3]) == [1, (1 + 2**-6) ** 2, (1 + 2**-7) ** 2]


def test_the_bits_do_not_depend_on_threads():
    def sums(threads):
        use_threads(threads)
        inputs = Inputs(600)
        inputs.add(rows(64, 600, 1), rows(64, 600, 2))
        return inputs.second, inputs.cross

    try:
        assert all(np.array_equal(one, three) for one, three in zip(sums(1), sums(3), strict=True))
    finally:
        use_threads(None)

"""What a weight should compute when its inputs are no longer those of the original model, against lstsq."""

import numpy as np
import pytest

from quanttool.feedback.covariance import Inputs
from quanttool.feedback.layers import share_of
from quanttool.feedback.target import corrections, excess_error, strengths


def setting(seed: int):
    """Weights, original inputs f, inputs x, and what hidden states lack."""
    rng = np.random.default_rng(seed)
    f = rng.standard_normal((400, 24)).astype(np.float32)
    x = (f + 0.3 * rng.standard_normal((400, 24))).astype(np.float32)
    return rng.standard_normal((10, 24)).astype(np.float32), f, x, (0.2 * f[:, :10]).astype(np.float32)


@pytest.mark.parametrize("by_outputs", [False, True])
def test_the_correction_leads_to_the_least_squares_solution(by_outputs):
    weights, f, x, gaps = setting(1)
    wanted = f @ weights.T + (gaps if by_outputs else 0)
    inputs = Inputs(24, 10 if by_outputs else 0)
    inputs.add(x, wanted - x @ weights.T if by_outputs else f - x)
    correction = corrections(weights, inputs, inputs.second.astype(np.float64) / inputs.count)
    expected = np.linalg.lstsq(x.astype(np.float64), wanted.astype(np.float64), rcond=None)[0].T
    np.testing.assert_allclose(weights + correction, expected, atol=5e-3)


@pytest.mark.parametrize("by_outputs", [False, True])
def test_its_strength_and_the_error_are_those_of_the_outputs(by_outputs):
    weights, f, x, gaps = setting(2)
    wanted = (f @ weights.T + (gaps if by_outputs else 0)).astype(np.float64)
    inputs = Inputs(24, 10 if by_outputs else 0)
    inputs.add(x, wanted.astype(np.float32) - x @ weights.T if by_outputs else f - x)
    correction = np.random.default_rng(5).standard_normal(weights.shape).astype(np.float32) * 0.1
    correction += corrections(weights, inputs, inputs.second.astype(np.float64) / inputs.count)

    def error(values):
        return ((x.astype(np.float64) @ values.T - wanted) ** 2).sum()

    found = strengths(correction, weights, inputs)
    assert 0.2 < found < 0.99
    slope = (error(weights + (found + 0.01) * correction) - error(weights + (found - 0.01) * correction)) / 0.02
    assert abs(slope) < 0.02 * error(weights)
    values = np.round(weights * 4) / 4
    assert excess_error(values, weights, inputs) == pytest.approx(error(values) - error(weights), rel=0.02)


def test_a_product_that_is_the_change_of_hidden_states_is_told_from_others():
    product = np.random.default_rng(3).standard_normal((7, 5)).astype(np.float32)
    assert share_of(product, 0.25 * product[None]) == pytest.approx(0.25)
    assert share_of(product, 0.25 * product + 0.05 * np.roll(product, 1)) == 0
    assert share_of(product, product[:, :4]) == 0

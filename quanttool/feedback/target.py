"""What a quantized weight should compute, given that its inputs are no longer those of the original model.

Wanted is Q x = W f, where f is the original input and x the one of the quantized model; and where the output is added
to hidden states, whatever the quantized model's state lacks by then besides. With r what W x lacks of that, the least
squares solution is W + D H^-1 with D = sum r x^T. How much of that correction is taken is decided on held-out text.
"""

import numpy as np

from .covariance import F32, F64, Inputs


def deficits(weights: F32, inputs: Inputs) -> F32:
    """D, f32 [n_out, n_cols]: sums of what the weight's outputs lack, times the inputs."""
    return weights @ inputs.cross if inputs.lacks is None else inputs.lacks


def corrections(weights: F32, inputs: Inputs, h: F64) -> F32:
    """The full correction f32 [n_out, n_cols] of a weight; h: f64, the damped mean of x x^T."""
    lacks = deficits(weights, inputs).astype(np.float64) / max(inputs.count, 1)
    return np.linalg.solve(h, lacks.T).T.astype(np.float32)


def strengths(correction: F32, weights: F32, held_out: Inputs) -> float:
    """What the correction should be multiplied with for the least error on held-out inputs, 0 to 1."""
    square = float(np.vdot(correction @ held_out.second, correction))
    return float(np.clip(np.vdot(correction, deficits(weights, held_out)) / square, 0, 1)) if square > 0 else 0.0


def excess_error(values: F32, weights: F32, held_out: Inputs) -> float:
    """Squared error of the output on held-out inputs, less what unchanged weights would have; smaller is better.

    values:  f32 [n_out, n_cols], what the quantized weight's bytes stand for
    """
    e = values - weights
    return float(np.vdot(e @ held_out.second, e) - 2 * np.vdot(e, deficits(weights, held_out)))

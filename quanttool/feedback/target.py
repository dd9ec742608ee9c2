"""What a quantized weight should compute, given that its inputs are no longer those of the original model.

Wanted is Q x = W f, where f is the original input and x the one of the quantized model: the least squares solution is
W + W D H^-1 with D = sum (f - x) x^T. How much of that correction is taken is decided on held-out text.
"""

import numpy as np

from .covariance import F32, F64, Inputs


def corrections(weights: F32, inputs: Inputs, inverse: F64) -> F32:
    """The full correction f32 [n_out, n_cols] of a weight; inverse: f64, of the damped mean of x x^T."""
    return ((weights @ inputs.cross / np.float32(max(inputs.count, 1))) @ inverse).astype(np.float32)


def strengths(correction: F32, weights: F32, held_out: Inputs) -> float:
    """What the correction should be multiplied with for the least error on held-out inputs, 0 to 1."""
    square = float(np.vdot(correction @ held_out.second, correction))
    return float(np.clip(np.vdot(correction, weights @ held_out.cross) / square, 0, 1)) if square > 0 else 0.0


def excess_error(values: F32, weights: F32, held_out: Inputs) -> float:
    """Squared error of the output on held-out inputs, less what unchanged weights would have; smaller is better.

    values:  f32 [n_out, n_cols], what the quantized weight's bytes stand for
    """
    e = values - weights
    return float(np.vdot(e @ held_out.second, e) - 2 * np.vdot(e, weights @ held_out.cross))

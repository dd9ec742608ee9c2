"""Error feedback: weights rounded one column after the other, each making up for the errors of those before it.

The mathematics is in docs/algorithms/error-feedback.md. `rounding` rounds one matrix, `covariance` says what its inputs
are like, `target` what it should compute, `layers` goes through a model with a calibration text.
"""

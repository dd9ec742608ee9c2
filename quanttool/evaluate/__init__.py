"""Perplexity and divergence, from the hidden states of a forward pass."""

from .chunks import Chunks, split
from .divergence import Divergence, compare
from .perplexity import Perplexity
from .predictions import ModelPredictions, Predictions, negative_log_likelihood
from .statistics import Estimate

__all__ = [
    "Chunks",
    "Divergence",
    "Estimate",
    "ModelPredictions",
    "Perplexity",
    "Predictions",
    "compare",
    "negative_log_likelihood",
    "split",
]

"""Perplexity and divergence, from the hidden states of a forward pass."""

from .base_file import BaseFile, write_base_file
from .chunks import Chunks, split, windows
from .divergence import Divergence, compare
from .llama_base import LlamaBaseFile, write_llama_base
from .perplexity import Perplexity
from .predictions import ModelPredictions, Predictions, negative_log_likelihood
from .statistics import Estimate

__all__ = [
    "BaseFile",
    "Chunks",
    "Divergence",
    "Estimate",
    "LlamaBaseFile",
    "ModelPredictions",
    "Perplexity",
    "Predictions",
    "compare",
    "negative_log_likelihood",
    "split",
    "windows",
    "write_base_file",
    "write_llama_base",
]

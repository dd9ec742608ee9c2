"""What each tensor's quantization costs: mean KL divergence of the whole model, per tensor and type."""

from .table import Sensitivity, load_sensitivity

__all__ = ["Sensitivity", "load_sensitivity"]

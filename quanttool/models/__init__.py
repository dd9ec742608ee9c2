"""The forward pass: one short file per architecture family, all layer-major.

`load_model(path)` opens a GGUF file and checks that every tensor is there with the right shape; weights of any type are
expanded one layer at a time when hidden states are computed.
"""

import os
from importlib import import_module

from ..container import GGUFFile, ShardedGGUF, open_gguf
from ..container.layout import BASE_FILE_TYPE
from ..errors import ModelError, UsageError
from .config import Config
from .device import device_named
from .kv_cache import KVCache
from .model import Model
from .products import Precision, chosen_precision

__all__ = ["ARCHITECTURES", "KVCache", "Model", "load_model", "load_output"]

# general.architecture -> (module, class); modules are imported when needed
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "bailingmoe2": ("bailingmoe2", "BailingMoe2"),
    "cohere2": ("command_r", "Cohere2"),
    "command-r": ("command_r", "CommandR"),
    "deepseek2": ("deepseek", "DeepSeek2"),
    "gemma": ("gemma", "Gemma"),
    "gemma2": ("gemma", "Gemma2"),
    "gemma3": ("gemma", "Gemma3"),
    "glm4moe": ("glm4moe", "Glm4Moe"),
    "gpt-oss": ("gpt_oss", "GptOss"),
    "granite": ("granite", "Granite"),
    "granitemoe": ("granite", "Granite"),
    "llama": ("llama", "Llama"),
    "mistral3": ("llama", "Mistral3"),
    "olmo2": ("olmo", "Olmo2"),
    "olmoe": ("olmo", "Olmoe"),
    "phi3": ("phi3", "Phi3"),
    "qwen2": ("qwen", "Qwen2"),
    "qwen2moe": ("qwen", "Qwen2Moe"),
    "qwen3": ("qwen", "Qwen3"),
    "qwen3moe": ("qwen", "Qwen3"),
    "smollm3": ("llama", "SmolLM3"),
    "starcoder2": ("starcoder2", "Starcoder2"),
}


def load_model(
    path: str | os.PathLike, precision: Precision = "f32", cache: KVCache | None = None, device: str | None = None
) -> Model:
    """Open a model for the forward pass.

    precision:  of the products with weights: "f32"; "bf16", faster, with both operands rounded to bfloat16 (see
                `products.py`); "bf16-experts", the same in mixtures of experts, too; or "auto": bf16 if the file's
                weights are bfloat16, else f32
    cache:      types that keys and values are rounded to, as in a quantized cache; default: not at all
    device:     "cpu", "cuda", "cuda:1", ...: PyTorch there computes products and attention; default: our own kernels

    Raises FileFormatError for a damaged file, ModelError for an unknown architecture, for a missing or odd metadata
    key, and for a tensor that is missing or has another shape than the metadata says, UsageError for a device that
    PyTorch does not have.
    """
    return _open(open_gguf(path), precision, cache, device)


def load_output(path: str | os.PathLike, precision: Precision = "f32") -> Model:
    """As `load_model`, for a file of which only the output matrix is wanted: a model, or a base file that has it."""
    return _open(open_gguf(path), precision, output_alone=True)


def _open(
    file: GGUFFile | ShardedGGUF,
    precision: str,
    cache: KVCache | None = None,
    device: str | None = None,
    output_alone: bool = False,
) -> Model:
    if file.metadata.get("general.type") == BASE_FILE_TYPE and not output_alone:
        raise UsageError(f"{file.path}: is a base file and no model; give it with --kl-divergence-base")
    precision = chosen_precision(precision, file)
    architecture = Config(file).architecture
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"{file.path}: the forward pass does not know the architecture {architecture!r}; it knows {known}. "
            "(quantize works on any architecture: it needs no forward pass)"
        )
    module, name = ARCHITECTURES[architecture]
    return getattr(import_module(f".{module}", __package__), name)(file, precision, cache, device_named(device))

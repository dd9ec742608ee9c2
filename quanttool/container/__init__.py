"""GGUF on disk: read it without trusting it, write it whole or not at all."""

from .layout import GGUFValueType, TensorInfo
from .reader import GGUFFile, Metadata
from .shards import ShardedGGUF, ShardedGGUFWriter, open_gguf
from .writer import GGUFWriter

__all__ = [
    "GGUFFile",
    "GGUFValueType",
    "GGUFWriter",
    "Metadata",
    "ShardedGGUF",
    "ShardedGGUFWriter",
    "TensorInfo",
    "open_gguf",
]

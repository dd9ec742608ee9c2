"""What a quantized cache of keys and values does to them: there is no cache here, only its rounding.

Each head's key and value of each token is one row, as in llama.cpp. There, rows of quantized types are first rotated by
a Hadamard matrix if heads are a multiple of 64 wide, so that single large channels spread (llama-kv-cache.cpp,
build_input_k_rot and build_input_v_rot: blocks as wide as the head for keys, of 64 for values). Rotating queries and
results in turn changes nothing but rounding, so it is enough here to rotate back after quantizing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, QuantizeError, UsageError
from ..formats import block_format, dequantize_rows, quantize_rows

Array = NDArray[np.float32]

ROTATED = 64  # heads that are a multiple of it wide are rotated


@dataclass(frozen=True)
class KVCache:
    """Types of cached keys and values, by name; the defaults leave them as they are.

    rotate:  rotate before quantizing, as llama.cpp does unless LLAMA_ATTN_ROT_DISABLE is set

    Raises UsageError for a type that is unknown, that quantizes only with importance, or that weaves rows together.
    """

    type_k: str = "F32"
    type_v: str = "F32"
    rotate: bool = True

    def __post_init__(self):
        for name in (self.type_k, self.type_v):
            fmt = block_format(name)
            if fmt.importance == "required" or fmt.type.rows_interleaved > 1 or not fmt.can_quantize:
                raise UsageError(
                    f"{name} cannot hold a cache: its rows must be quantized one by one and without importance; "
                    "try Q8_0, Q5_1, Q4_0 or IQ4_NL"
                )

    def check(self, path: str, head_size: int, head_size_v: int) -> None:
        """Raise ModelError unless heads of this size divide into blocks."""
        for name, size in ((self.type_k, head_size), (self.type_v, head_size_v)):
            block = block_format(name).type.block_size
            if size % block:
                raise ModelError(
                    f"{path}: heads are {size} wide, a cache of {name} needs a multiple of {block}; "
                    "choose a type with smaller blocks"
                )

    def keys(self, k: Array) -> Array:  # [..., head_size] -> the same shape
        size = k.shape[-1]
        return self._stored(k, self.type_k, size & -size)  # the largest power of two that divides the size

    def values(self, v: Array) -> Array:  # [..., head_size_v] -> the same shape
        return self._stored(v, self.type_v, ROTATED)

    def shared(self, latent: Array) -> Array:  # [..., n] -> the same shape
        """What keys and values of all heads come from (multi-head latent attention); llama.cpp never rotates it."""
        return _rounded(latent, self.type_k)

    def _stored(self, x: Array, type_name: str, width: int) -> Array:
        if not self.rotate or type_name in ("F32", "F16", "BF16") or x.shape[-1] % ROTATED:
            return _rounded(x, type_name)
        return _rotated(_rounded(_rotated(x, width), type_name), width)


def _rounded(x: Array, type_name: str) -> Array:
    if type_name == "F32":
        return x
    n = x.shape[-1]
    try:
        return dequantize_rows(quantize_rows(x.reshape(-1, n), type_name), type_name, n).reshape(x.shape)
    except QuantizeError:
        raise ModelError("keys or values of a layer are not finite; run without --cache-type to see where") from None


def _rotated(x: Array, width: int) -> Array:
    """x times the orthonormal Hadamard matrix, in blocks of `width`: its own inverse."""
    return (x.reshape(-1, width) @ hadamard(width)).reshape(x.shape)


def hadamard(n: int) -> Array:
    """Sylvester's matrix of size n, a power of two, over sqrt(n): f32 [n, n]."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(n))

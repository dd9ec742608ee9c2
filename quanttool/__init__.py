"""quanttool: quantize language models to GGUF, and know exactly how good the result is.

The Python interface is as thin as the commands:

    quanttool.quantize_rows(rows, "Q4_K", importance=None)     -> u8  [n_rows, row_bytes]
    quanttool.dequantize_rows(data, "Q4_K", n_cols)            -> f32 [n_rows, n_cols]
    quanttool.load_model(path).logits(tokens)                  -> f32 [n_tokens, n_vocab]
    quanttool.load_tokenizer(path).encode(text)                -> list[int]

Nothing heavy is imported until one of these names is used.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "quantize_rows": "quanttool.formats",
    "dequantize_rows": "quanttool.formats",
    "load_model": "quanttool.models",
    "load_tokenizer": "quanttool.tokenizer",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        from .blas import choose_kernels

        choose_kernels()
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'quanttool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

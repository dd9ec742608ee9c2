"""Tiny models with random weights, written with the package's own writer: the same draws as the reference files.

`llama()` draws what `make_tiny_models.py --seed 7 --only llama` draws, so the logits that llama.cpp computed for that
file (tests/golden/logits/llama.npz) hold for it too.
"""

from pathlib import Path

import numpy as np

from quanttool.container import GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.formats import quantize_rows
from quanttool.ggml_types import ggml_type

N_VOCAB, N_EMBD, N_HEAD, N_HEAD_KV, HEAD_SIZE, N_FF, N_LAYER = 128, 256, 4, 2, 64, 384, 2


def llama() -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Metadata and tensors (slowest dimension first) of a llama of two layers."""
    rng = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {}

    def weight(name, *shape, scale=None):
        scale = 1.2 / np.sqrt(shape[-1]) if scale is None else scale
        tensors[name] = (rng.standard_normal(shape) * scale).astype(np.float32)

    def norm(name):
        tensors[name] = (1 + 0.2 * rng.standard_normal(N_EMBD)).astype(np.float32)

    weight("token_embd.weight", N_VOCAB, N_EMBD, scale=0.5)
    norm("output_norm.weight")
    weight("output.weight", N_VOCAB, N_EMBD)
    for i in range(N_LAYER):
        norm(f"blk.{i}.attn_norm.weight")
        weight(f"blk.{i}.attn_q.weight", N_HEAD * HEAD_SIZE, N_EMBD)
        weight(f"blk.{i}.attn_k.weight", N_HEAD_KV * HEAD_SIZE, N_EMBD)
        weight(f"blk.{i}.attn_v.weight", N_HEAD_KV * HEAD_SIZE, N_EMBD)
        weight(f"blk.{i}.attn_output.weight", N_EMBD, N_HEAD * HEAD_SIZE)
        norm(f"blk.{i}.ffn_norm.weight")
        weight(f"blk.{i}.ffn_gate.weight", N_FF, N_EMBD)
        weight(f"blk.{i}.ffn_up.weight", N_FF, N_EMBD)
        weight(f"blk.{i}.ffn_down.weight", N_EMBD, N_FF)
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": N_LAYER,
        "llama.embedding_length": N_EMBD,
        "llama.feed_forward_length": N_FF,
        "llama.attention.head_count": N_HEAD,
        "llama.attention.head_count_kv": N_HEAD_KV,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    return metadata, tensors


def ascii_tokenizer() -> dict[str, object]:
    """Metadata of a byte-level BPE vocabulary for ASCII text: BOS, one token per character, one merge."""
    tokens = ["<|bos|>", "\u0120", "\u010a", *map(chr, range(33, 127)), "th"]  # space and newline as BPE spells them
    tokens += [f"<|unused{i}|>" for i in range(N_VOCAB - len(tokens))]
    control = {token for token in tokens if token.startswith("<|")}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in control else 1 for token in tokens],
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


def _encoded(value: object) -> tuple[GGUFValueType, bytes]:
    if isinstance(value, list):
        element = GGUFValueType.STRING if isinstance(value[0], str) else GGUFValueType.INT32
        return GGUFValueType.ARRAY, encode_value(value, GGUFValueType.ARRAY, element)
    kinds = {str: "STRING", bool: "BOOL", int: "UINT32", float: "FLOAT32"}
    kind = GGUFValueType[kinds[type(value)]]
    return kind, encode_value(value, kind)


def write(path: Path, metadata: dict[str, object], tensors: dict[str, np.ndarray], matrix_type: str = "F32") -> Path:
    """Write float32 tensors as a GGUF file; those of several dimensions in a type."""
    encoded = {key: _encoded(value) for key, value in metadata.items()}
    types = {name: matrix_type if array.ndim > 1 else "F32" for name, array in tensors.items()}
    infos = [TensorInfo(name, ggml_type(types[name]), array.shape[::-1]) for name, array in tensors.items()]
    with GGUFWriter(path, encoded, infos) as writer:
        for name, array in tensors.items():
            rows = array.reshape(-1, array.shape[-1])
            # not all through quantize_rows: it refuses the damaged weights that some tests want
            writer.write_rows(
                name, 0, rows.view(np.uint8) if types[name] == "F32" else quantize_rows(rows, types[name])
            )
    return path

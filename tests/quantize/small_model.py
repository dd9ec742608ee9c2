"""A small mixture-of-experts file and an imatrix for it, the same bytes on every machine: no random numbers.

llama-quantize accepts both; tests/golden/quantize/small.json holds the hashes of what it wrote.
"""

from pathlib import Path

import numpy as np

from quanttool.container import GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.ggml_types import BY_NAME
from quanttool.imatrix import Entry, Imatrix, save

N_EXPERT = 4
SHAPES = {  # in no particular order, as files come
    "output_norm.weight": (512,),
    "output.weight": (512, 96),
    "blk.1.attn_norm.weight": (512,),
    "token_embd.weight": (512, 96),
    "blk.1.ffn_gate_inp.weight": (512, N_EXPERT),
    "blk.1.ffn_down_exps.weight": (256, 512, N_EXPERT),
    "blk.1.ffn_up_exps.weight": (512, 256, N_EXPERT),
    "blk.1.ffn_gate_exps.weight": (512, 256, N_EXPERT),
    "blk.0.attn_norm.weight": (512,),
    "blk.0.attn_q.weight": (512, 512),
    "blk.0.attn_k.weight": (512, 64),
    "blk.0.attn_v.weight": (512, 64),
    "blk.0.attn_output.weight": (512, 512),
    "blk.0.ffn_up.weight": (512, 288),
    "blk.0.ffn_down.weight": (288, 512),  # does not divide by 256
    "blk.0.ffn_gate.weight": (512, 288),
    "blk.1.attn_v.weight": (512, 64),
    "blk.0.odd.weight": (31, 4),  # does not divide by 32 either
}
_KINDS = GGUFValueType
_METADATA = {
    "general.architecture": ("llama", _KINDS.STRING),
    "general.file_type": (0, _KINDS.UINT32),
    "general.name": ("small", _KINDS.STRING),
    "llama.block_count": (2, _KINDS.UINT32),
    "llama.context_length": (128, _KINDS.UINT32),
    "llama.embedding_length": (512, _KINDS.UINT32),
    "llama.feed_forward_length": (288, _KINDS.UINT32),
    "llama.attention.head_count": (8, _KINDS.UINT32),
    "llama.attention.head_count_kv": (1, _KINDS.UINT32),
    "llama.attention.layer_norm_rms_epsilon": (1e-5, _KINDS.FLOAT32),
    "llama.expert_count": (N_EXPERT, _KINDS.UINT32),
    "llama.expert_used_count": (2, _KINDS.UINT32),
}


def values(name: str, n: int) -> np.ndarray:
    """f32 [n], spread like weights: products of two hashes of the index."""
    seed = np.uint64(sum(name.encode()) * 7919)
    i = np.arange(n, dtype=np.uint64) + seed * np.uint64(1 << 20)
    mixed = [
        (i * np.uint64(k) ^ (i >> np.uint64(7)) * np.uint64(0x9E3779B1)) >> np.uint64(20) for k in (2654435761, 40503)
    ]
    a, b = ((m & np.uint64(0xFFFF)).astype(np.float32) / np.float32(65536) - np.float32(0.5) for m in mixed)
    return a * b * np.float32(0.25) + a * np.float32(0.015625)


def write_model(path: Path, type_name: str = "F32") -> Path:
    """The model, in F32 or BF16 (norms stay F32)."""
    metadata = {key: (kind, encode_value(value, kind)) for key, (value, kind) in _METADATA.items()}
    kinds = {name: BY_NAME["F32" if len(ne) == 1 else type_name] for name, ne in SHAPES.items()}
    with GGUFWriter(path, metadata, [TensorInfo(n, kinds[n], ne) for n, ne in SHAPES.items()]) as writer:
        for name, ne in SHAPES.items():
            data = values(name, int(np.prod(ne)))
            if kinds[name].name == "BF16":
                data = (data.view(np.uint32) >> 16).astype(np.uint16)
            writer.write_rows(name, 0, data.reshape(-1, ne[0]).view(np.uint8))
    return path


def importance_of(name: str) -> Entry:
    """Sums and counts of one weight; expert 2 was never reached."""
    ne = SHAPES[name]
    n_matrices = ne[2] if len(ne) > 2 else 1
    sums = np.abs(values(name + "!", n_matrices * ne[0])).reshape(n_matrices, ne[0]).astype(np.float64) * 300
    counts = np.array([7 * (i + 1) if i != 2 else 0 for i in range(n_matrices)])
    return Entry(sums * (counts > 0)[:, None], counts)


def write_imatrix(path: Path, file_format: str = "gguf") -> Path:
    names = [name for name in SHAPES if name.startswith("blk") and not name.endswith(("norm.weight", "odd.weight"))]
    imatrix = Imatrix({name: importance_of(name) for name in names}, ["text.txt"], chunk_count=3, chunk_size=16)
    save(imatrix, path, file_format)
    return path

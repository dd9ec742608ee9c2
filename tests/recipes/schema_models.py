"""The twelve models whose types llama.cpp keeps in tables: their tensor names and shapes, without any data.

The tables (tests/golden/mixes) name the dimensions that mixes ask for; the shapes here are those of the published
models, as llama.cpp's src/models/*.cpp declare them. Rows of `ne` are ggml's order: ne[0] is the row width.
"""

from collections.abc import Callable, Iterator

from quanttool.container import TensorInfo
from quanttool.ggml_types import BY_NAME

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _gqa(i: int, n_embd: int, q: int, kv: int, out: int | None = None) -> Shapes:
    """Attention with separate q, k, v."""
    yield f"blk.{i}.attn_norm.weight", (n_embd,)
    yield f"blk.{i}.attn_q.weight", (n_embd, q)
    yield f"blk.{i}.attn_k.weight", (n_embd, kv)
    yield f"blk.{i}.attn_v.weight", (n_embd, kv)
    yield f"blk.{i}.attn_v.bias", (kv,)
    yield f"blk.{i}.attn_output.weight", (out or q, n_embd)


def _dense(i: int, n_embd: int, n_ff: int, suffix: str = "") -> Shapes:
    yield f"blk.{i}.ffn_gate{suffix}.weight", (n_embd, n_ff)
    yield f"blk.{i}.ffn_up{suffix}.weight", (n_embd, n_ff)
    yield f"blk.{i}.ffn_down{suffix}.weight", (n_ff, n_embd)


def _experts(i: int, n_embd: int, n_ff: int, n_expert: int, shared: int = 0, gate: bool = True) -> Shapes:
    yield f"blk.{i}.ffn_gate_inp.weight", (n_embd, n_expert)
    if gate:
        yield f"blk.{i}.ffn_gate_exps.weight", (n_embd, n_ff, n_expert)
    yield f"blk.{i}.ffn_up_exps.weight", (n_embd, n_ff, n_expert)
    yield f"blk.{i}.ffn_down_exps.weight", (n_ff, n_embd, n_expert)
    if shared:
        yield f"blk.{i}.ffn_gate_inp_shexp.weight", (n_embd, 1)
        yield from (s for s in _dense(i, n_embd, shared, "_shexp") if gate or "gate" not in s[0])


def _embeddings(n_embd: int, n_vocab: int, tied: bool = False) -> Shapes:
    yield "token_embd.weight", (n_embd, n_vocab)
    yield "output_norm.weight", (n_embd,)
    if not tied:
        yield "output.weight", (n_embd, n_vocab)


def deepseek_v3() -> Shapes:
    yield from _embeddings(7168, 129280)
    for i in range(61):
        yield f"blk.{i}.attn_q_a.weight", (7168, 1536)
        yield f"blk.{i}.attn_q_a_norm.weight", (1536,)
        yield f"blk.{i}.attn_q_b.weight", (1536, 24576)
        yield f"blk.{i}.attn_kv_a_mqa.weight", (7168, 576)
        yield f"blk.{i}.attn_k_b.weight", (128, 512, 128)
        yield f"blk.{i}.attn_v_b.weight", (512, 128, 128)
        yield f"blk.{i}.attn_output.weight", (16384, 7168)
        yield from _dense(i, 7168, 18432) if i < 3 else _experts(i, 7168, 2048, 256, 2048)


def gemma3_4b() -> Shapes:
    yield from _embeddings(2560, 262144, tied=True)
    for i in range(34):
        yield from _gqa(i, 2560, 2048, 1024)
        yield from _dense(i, 2560, 10240)


def gpt_oss_120b() -> Shapes:
    yield from _embeddings(2880, 201088)
    for i in range(36):
        yield from _gqa(i, 2880, 4096, 512)
        yield from _experts(i, 2880, 2880, 128)


def llama3_70b() -> Shapes:
    yield "rope_freqs.weight", (64,)
    yield from _embeddings(8192, 128256)
    for i in range(80):
        yield from _gqa(i, 8192, 8192, 1024)
        yield from _dense(i, 8192, 28672)


def qwen3_0_6b() -> Shapes:
    yield from _embeddings(1024, 151936)
    for i in range(28):
        yield from _gqa(i, 1024, 2048, 1024)
        yield from _dense(i, 1024, 3072)


def qwen3_14b() -> Shapes:
    yield from _embeddings(5120, 151936)
    for i in range(40):
        yield from _gqa(i, 5120, 5120, 1024)
        yield from _dense(i, 5120, 17408)


def _linear_attention(i: int, n_embd: int, qkv: int, gate: int, heads: int, fused: bool) -> Shapes:
    """Gated delta net of the Qwen3-Next line."""
    yield f"blk.{i}.attn_qkv.weight", (n_embd, qkv)
    yield f"blk.{i}.attn_gate.weight", (n_embd, gate)
    yield f"blk.{i}.ssm_conv1d.weight", (4, qkv)
    yield f"blk.{i}.ssm_a", (heads,)
    for name in ("ssm_ba",) if fused else ("ssm_alpha", "ssm_beta"):
        yield f"blk.{i}.{name}.weight", (n_embd, 2 * heads if fused else heads)
    yield f"blk.{i}.ssm_norm.weight", (128,)
    yield f"blk.{i}.ssm_out.weight", (gate, n_embd)


def qwen3_coder_next() -> Shapes:
    yield from _embeddings(2048, 151936)
    for i in range(48):
        if i % 4 == 3:
            yield from _gqa(i, 2048, 8192, 512, out=4096)
        else:
            yield from _linear_attention(i, 2048, 8192, 4096, 32, fused=True)
        yield from _experts(i, 2048, 512, 512, 512)


def qwen3_5_397b() -> Shapes:
    yield from _embeddings(4096, 248320)
    for i in range(60):
        if i % 4 == 3:
            yield from _gqa(i, 4096, 16384, 512, out=8192)
        else:
            yield from _linear_attention(i, 4096, 12288, 8192, 64, fused=False)
        yield from _experts(i, 4096, 1024, 512, 1024)


def qwen3_6_27b() -> Shapes:
    yield from _embeddings(5120, 248320)
    for i in range(64):
        if i % 4 == 3:
            yield from _gqa(i, 5120, 12288, 1024, out=6144)
        else:
            yield from _linear_attention(i, 5120, 10240, 6144, 48, fused=False)
        yield from _dense(i, 5120, 17408)


def glm_4_6v() -> Shapes:
    yield from _embeddings(4096, 151552)
    for i in range(46):
        yield from _gqa(i, 4096, 12288, 1024)
        yield from _dense(i, 4096, 10944) if i < 1 else _experts(i, 4096, 1408, 128, 1408)


def nemotron_3_nano() -> Shapes:
    yield from _embeddings(2688, 131072)
    attention = (5, 12, 19, 26, 33, 42)
    state_space = (0, 2, 4, 7, 9, 11, 14, 16, 18, 21, 23, 25, 28, 30, 32, 35, 37, 39, 41, 44, 46, 48, 50)
    for i in range(52):
        if i in attention:
            yield from _gqa(i, 2688, 4096, 256)
        elif i in state_space:
            yield f"blk.{i}.ssm_in.weight", (2688, 10304)
            yield f"blk.{i}.ssm_conv1d.weight", (4, 6144)
            yield f"blk.{i}.ssm_a", (1, 64)
            yield f"blk.{i}.ssm_norm.weight", (512, 8)
            yield f"blk.{i}.ssm_out.weight", (4096, 2688)
        else:
            yield from _experts(i, 2688, 1856, 128, 3712, gate=False)


def step_3_5_flash() -> Shapes:
    yield from _embeddings(4096, 128896)
    for i in range(45):
        yield from _gqa(i, 4096, 8192 if i % 4 == 0 else 12288, 1024)
        yield f"blk.{i}.attn_gate.weight", (4096, 64 if i % 4 == 0 else 96)
        yield from _dense(i, 4096, 11264) if i < 3 else _experts(i, 4096, 1280, 288, 1280)


# schema -> architecture, shapes
MODELS: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "deepseek-v3.1": ("deepseek2", deepseek_v3),
    "gemma-3-4b-it": ("gemma3", gemma3_4b),
    "glm-4.6v": ("glm4moe", glm_4_6v),
    "gpt-oss-120b": ("gpt-oss", gpt_oss_120b),
    "meta-llama-3.1-70b-instruct": ("llama", llama3_70b),
    "nvidia-nemotron-3-nano-30b-a3b": ("nemotron_h_moe", nemotron_3_nano),
    "qwen3-0.6b": ("qwen3", qwen3_0_6b),
    "qwen3-14b": ("qwen3", qwen3_14b),
    "qwen3-coder-next": ("qwen3next", qwen3_coder_next),
    "qwen3.5-397b-a17b": ("qwen35moe", qwen3_5_397b),
    "qwen3.6-27b": ("qwen35", qwen3_6_27b),
    "step-3.5-flash": ("step35", step_3_5_flash),
}


def tensors(name: str) -> list[TensorInfo]:
    """All tensors of a model in F32, as the published file orders them: not by layer."""
    shapes = (MODELS | OTHER_MODELS)[name][1]()
    return sorted((TensorInfo(n, BY_NAME["F32"], ne) for n, ne in shapes), key=lambda t: t.name)


def metadata(name: str, dimensions: dict[str, int]) -> dict[str, object]:
    """The keys that mixes ask for, from the dimensions in the schema's head."""
    arch = (MODELS | OTHER_MODELS)[name][0]
    return {
        "general.architecture": arch,
        f"{arch}.block_count": dimensions["n_layer"],
        f"{arch}.attention.head_count": dimensions["n_head"],
        f"{arch}.attention.head_count_kv": dimensions["n_head_kv"],
        f"{arch}.expert_count": dimensions.get("n_expert", 0),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Models that reach the rules the twelve do not: eight experts, Falcon, a tied model without grouped heads.


def mixtral_8x7b() -> Shapes:
    yield from _embeddings(4096, 32000)
    for i in range(32):
        yield from _gqa(i, 4096, 4096, 1024)
        yield from _experts(i, 4096, 14336, 8)


def _falcon(n_layer: int, n_embd: int, qkv: int) -> Shapes:
    yield from _embeddings(n_embd, 65024)
    for i in range(n_layer):
        yield f"blk.{i}.attn_norm.weight", (n_embd,)
        yield f"blk.{i}.attn_qkv.weight", (n_embd, qkv)
        yield f"blk.{i}.attn_output.weight", (n_embd, n_embd)
        yield f"blk.{i}.ffn_up.weight", (n_embd, 4 * n_embd)
        yield f"blk.{i}.ffn_down.weight", (4 * n_embd, n_embd)


def falcon_7b() -> Shapes:
    return _falcon(32, 4544, 4672)


def falcon_40b() -> Shapes:
    return _falcon(60, 8192, 9216)


def small_tied() -> Shapes:
    yield from _embeddings(576, 49152, tied=True)
    for i in range(24):
        yield from _gqa(i, 576, 576, 576)
        yield from _dense(i, 576, 1536)


def qwen2_72b() -> Shapes:
    yield from _embeddings(8192, 152064)
    for i in range(80):
        yield from _gqa(i, 8192, 8192, 1024)
        yield from _dense(i, 8192, 29568)


# ---------------------------------------------------------------------------------------------------------------------
# Models that recipes are shipped for. Sizes: the models' published config.json; names: llama.cpp's src/models.


def _qwen3_moe(n_layer: int, n_embd: int, q: int, kv: int, n_ff: int, n_expert: int) -> Shapes:
    yield from _embeddings(n_embd, 151936)
    for i in range(n_layer):
        yield from _gqa(i, n_embd, q, kv)
        yield from _experts(i, n_embd, n_ff, n_expert)


def qwen3_30b_a3b() -> Shapes:
    return _qwen3_moe(48, 2048, 4096, 512, 768, 128)


def qwen3_coder_480b() -> Shapes:
    return _qwen3_moe(62, 6144, 12288, 1024, 2560, 160)


def glm_4_6() -> Shapes:
    yield from _embeddings(5120, 151552)
    for i in range(93):
        yield from _gqa(i, 5120, 12288, 1024)
        if i < 3:
            yield from _dense(i, 5120, 12288)
        else:
            yield from _experts(i, 5120, 1536, 160)
            yield from _dense(i, 5120, 1536, "_shexp")
    yield "blk.92.nextn.eh_proj.weight", (10240, 5120)
    yield "blk.92.nextn.embed_tokens.weight", (5120, 151552)
    yield "blk.92.nextn.shared_head_head.weight", (5120, 151552)
    for name in ("enorm", "hnorm", "shared_head_norm"):
        yield f"blk.92.nextn.{name}.weight", (5120,)


def _bailing(n_layer: int, n_dense: int, n_embd: int, qkv: int, n_ff: int, n_ff_expert: int) -> Shapes:
    yield from _embeddings(n_embd, 157184)
    for i in range(n_layer):
        yield f"blk.{i}.attn_qkv.weight", (n_embd, qkv)
        yield f"blk.{i}.attn_output.weight", (n_embd, n_embd)
        yield f"blk.{i}.attn_q_norm.weight", (128,)
        if i < n_dense:
            yield from _dense(i, n_embd, n_ff)
        else:
            yield from _experts(i, n_embd, n_ff_expert, 256)
            yield from _dense(i, n_embd, n_ff_expert, "_shexp")


def ling_flash() -> Shapes:
    return _bailing(32, 1, 4096, 5120, 9216, 1024)


def ling_1t() -> Shapes:
    return _bailing(80, 4, 8192, 10240, 18432, 2048)


def kimi_k2() -> Shapes:
    yield from _embeddings(7168, 163840)
    for i in range(61):
        yield f"blk.{i}.attn_q_a.weight", (7168, 1536)
        yield f"blk.{i}.attn_q_b.weight", (1536, 12288)
        yield f"blk.{i}.attn_kv_a_mqa.weight", (7168, 576)
        yield f"blk.{i}.attn_k_b.weight", (128, 512, 64)
        yield f"blk.{i}.attn_v_b.weight", (512, 128, 64)
        yield f"blk.{i}.attn_output.weight", (8192, 7168)
        if i < 1:
            yield from _dense(i, 7168, 18432)
        else:
            yield from _experts(i, 7168, 2048, 384)
            yield from _dense(i, 7168, 2048, "_shexp")


OTHER_MODELS: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "falcon-40b": ("falcon", falcon_40b),
    "falcon-7b": ("falcon", falcon_7b),
    "mixtral-8x7b": ("llama", mixtral_8x7b),
    "qwen2-72b": ("qwen2", qwen2_72b),
    "small-tied": ("llama", small_tied),
}

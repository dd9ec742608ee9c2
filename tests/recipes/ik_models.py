"""Small models whose types ik_llama.cpp chose in dry runs (tests/golden/mixes/ik_llama.cpp): names and shapes alone.

Everything is 256 wide and layers come in order, so that neither fallbacks nor the order of a file play a part.
"""

from collections.abc import Callable

from .schema_models import Shapes


def layers(n_layer: int, *kinds: str, n_expert: int = 0, tied: bool = False, first: tuple[str, ...] = ()) -> Shapes:
    """Layers with these weights; `first` names those of layer 0 where it has others. Names with `exps` are experts'."""
    yield "token_embd.weight", (256, 64)
    if not tied:
        yield "output.weight", (256, 64)
    yield "output_norm.weight", (256,)
    for i in range(n_layer):
        for kind in first if first and i == 0 else kinds:
            yield f"blk.{i}.{kind}.weight", (256, 16, n_expert) if "exps" in kind else (256, 16)


ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
DENSE = ("ffn_gate", "ffn_up", "ffn_down")
EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
LATENT = ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b", "attn_output")


def _facts(n_layer: int, n_head: int, n_head_kv: int, **more: int) -> dict[str, int]:
    heads = {"attention.head_count": n_head, "attention.head_count_kv": n_head_kv}
    return {"block_count": n_layer, "vocab_size": 64} | heads | more


# name -> architecture, metadata, tensors
MODELS: dict[str, tuple[str, dict[str, int], Callable[[], Shapes]]] = {
    "dense": ("llama", _facts(24, 8, 8), lambda: layers(24, *ATTENTION, *DENSE)),
    "dense-gqa2-tied": ("llama", _facts(24, 8, 4), lambda: layers(24, *ATTENTION, *DENSE, tied=True)),
    "dense-gqa8": ("qwen3", _facts(28, 8, 1), lambda: layers(28, *ATTENTION, *DENSE)),
    "llama-3-8b": ("llama", _facts(32, 8, 2, vocab_size=128256), lambda: layers(32, *ATTENTION, *DENSE)),
    "llama-3-70b": ("llama", _facts(80, 8, 1, vocab_size=128256), lambda: layers(80, *ATTENTION, *DENSE)),
    "falcon": ("falcon", _facts(16, 8, 8), lambda: layers(16, "attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    "experts-2": (
        "llama",
        _facts(16, 8, 8, expert_count=2, expert_used_count=1),
        lambda: layers(16, *ATTENTION, *EXPERTS, n_expert=2),
    ),
    "experts-4": (
        "llama",
        _facts(16, 8, 4, expert_count=4, expert_used_count=2),
        lambda: layers(16, *ATTENTION, *EXPERTS, n_expert=4),
    ),
    "experts-64": (
        "deepseek2",
        _facts(
            27,
            8,
            8,
            expert_count=64,
            expert_used_count=6,
            leading_dense_block_count=1,
            expert_feed_forward_length=256,
            expert_shared_count=1,
            expert_weights_scale=1,
        ),
        lambda: layers(27, *LATENT, *EXPERTS, *SHARED, n_expert=64, first=(*LATENT, *DENSE)),
    ),
}

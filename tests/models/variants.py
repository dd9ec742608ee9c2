"""Tiny models in the less common forms of their architectures, made by changing those of make_tiny_models.py.

tests/golden/logits/variants.npz holds the logits that llama.cpp's library computes for these files at POSITIONS of
TOKENS (one sequence, float32 weights and cache, no flash attention, context as CONTEXT says).
"""

import numpy as np

TOKENS = np.random.default_rng(1).integers(0, 128, 300).astype(np.int32)
POSITIONS = [0, 1, 40, 77, 120, 299]
CONTEXT = 512


def all_variants(tiny) -> dict:
    """name -> function that makes the model; `tiny` is the module make_tiny_models.py."""
    small = tiny.GEOMETRY["small"]

    def model(name, **metadata):
        made = tiny.MODELS[name](3, small)
        made.set(**metadata)
        return made

    def yarn(factor, original):
        return {
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": factor,
            "rope__scaling__original_context_length": original,
        }

    def longrope(original):
        made = model("phi3", rope__scaling__type="longrope", rope__scaling__attn_factor=1.19)
        made.set(rope__scaling__original_context_length=original)
        made.tensors["rope_factors_long.weight"] = np.linspace(1, 20, 32).astype(np.float32)
        made.tensors["rope_factors_short.weight"] = np.linspace(1, 1.5, 32).astype(np.float32)
        return made

    return {
        "llama-linear": lambda: model("llama", rope__scaling__type="linear", rope__scaling__factor=4.0),
        "gemma3-linear": lambda: model("gemma3", rope__scaling__type="linear", rope__scaling__factor=8.0),
        "llama-yarn": lambda: model("llama", **yarn(4.0, 32), rope__scaling__attn_factor=1.3),
        "deepseek2-yarn": lambda: model("deepseek2", **yarn(40.0, 64)),
        "deepseek2-yarn-1": lambda: model("deepseek2", **yarn(40.0, 64), rope__scaling__yarn_log_multiplier=0.1),
        "deepseek2-yarn-707": lambda: model("deepseek2", **yarn(40.0, 64), rope__scaling__yarn_log_multiplier=0.0707),
        "deepseek2-unsplit": lambda: unsplit(model("deepseek2")),
        "deepseek2-gate-up": lambda: fused_experts(model("deepseek2")),
        "deepseek2-groups": lambda: model("deepseek2", expert_group_count=4, expert_group_used_count=2),
        "deepseek2-softmax": lambda: model("deepseek2", expert_gating_func=1),
        "phi3-long": lambda: longrope(64),
        "phi3-short": lambda: longrope(CONTEXT),
        "gemma2-period": lambda: model("gemma2", attention__sliding_window_pattern=3),
        "gemma3-pattern": lambda: model("gemma3", attention__sliding_window_pattern=[True, False] * 3 + [True]),
        "gemma3-no-window": lambda: without(model("gemma3"), "attention.sliding_window"),
        "command-r-plus": lambda: command_r_plus(tiny, small),
        "qwen2-fused": lambda: fused_qkv(model("qwen2")),
        "qwen2-output-bias": lambda: output_bias(model("qwen2")),
        "glm4moe-air": lambda: without_head_norms(model("glm4moe")),
        "gemma": lambda: gemma(tiny, small),
        "granitemoe": lambda: granite_experts(model("mixtral")),
        "smollm3": lambda: renamed(tiny.llama(3, {**small, "layers": 5}), "smollm3"),
        "mistral3": lambda: renamed(
            model("llama", **yarn(4.0, 64), rope__scaling__yarn_log_multiplier=0.7, attention__temperature_scale=0.1),
            "mistral3",
        ),
        "olmo2": lambda: olmo2(tiny, small),
        "olmo3": lambda: olmo2(tiny, small, attention__sliding_window=24, **yarn(4.0, 64)),
        "cohere2": lambda: renamed(command_r(tiny, small, attention__sliding_window=24), "cohere2"),
        "mixtral-odd": lambda: tiny.MODELS["mixtral"](3, tiny.GEOMETRY["odd"]),
    }


def renamed(made, architecture):
    made.arch = architecture
    return made


def gemma(tiny, g):
    made = tiny.base("gemma", 3, g, tied=True)
    for i in range(made.n):
        p = f"blk.{i}."
        made.norm(p + "attn_norm.weight", g["d"])
        tiny.attention(made, p, g)
        made.norm(p + "ffn_norm.weight", g["d"])
        tiny.dense_ffn(made, p, g["d"], g["ff"])
    return made


def granite_experts(made):
    made.set(embedding_scale=12.0, residual_scale=0.22, attention__scale=0.0625, logit_scale=8.0)
    return renamed(made, "granitemoe")


def olmo2(tiny, g, **metadata):
    made = tiny.base("olmo2", 3, g, layers=5)
    made.set(**metadata)
    for i in range(made.n):
        p = f"blk.{i}."
        tiny.attention(made, p, g, qk_norm="full")
        made.norm(p + "post_attention_norm.weight", g["d"])
        tiny.dense_ffn(made, p, g["d"], g["ff"])
        made.norm(p + "post_ffw_norm.weight", g["d"])
    return made


def command_r(tiny, g, **metadata):
    made = tiny.command_r(3, {**g, "layers": 5})
    made.set(**metadata)
    return made


def without(made, key):
    del made.kv[key]
    return made


def unsplit(made):
    """attn_k_b and attn_v_b as one attn_kv_b, the form of older files."""
    for key in ("attention.key_length_mla", "attention.value_length_mla"):
        made.kv[key.removesuffix("_mla")] = made.kv.pop(key)
    made.kv["attention.head_count_kv"] = made.kv["attention.head_count"]
    for i in range(made.n):
        k = made.tensors.pop(f"blk.{i}.attn_k_b.weight").transpose(0, 2, 1)  # [n_head, n_nope, rank]
        v = made.tensors.pop(f"blk.{i}.attn_v_b.weight")  # [n_head, head_size_v, rank]
        made.tensors[f"blk.{i}.attn_kv_b.weight"] = np.concatenate([k, v], axis=1).reshape(-1, k.shape[2])
    return made


def fused_experts(made):
    for i in range(1, made.n):
        parts = [made.tensors.pop(f"blk.{i}.ffn_{part}_exps.weight") for part in ("gate", "up")]
        made.tensors[f"blk.{i}.ffn_gate_up_exps.weight"] = np.concatenate(parts, axis=1)
    return made


def fused_qkv(made):
    for i in range(made.n):
        for kind in ("weight", "bias"):
            parts = [made.tensors.pop(f"blk.{i}.attn_{part}.{kind}") for part in "qkv"]
            made.tensors[f"blk.{i}.attn_qkv.{kind}"] = np.concatenate(parts)
    return made


def output_bias(made):
    made.weight("output.weight", 128, 256)
    made.bias("output.bias", 128)
    return made


def without_head_norms(made):
    for i in range(made.n):
        del made.tensors[f"blk.{i}.attn_q_norm.weight"], made.tensors[f"blk.{i}.attn_k_norm.weight"]
    return made


def command_r_plus(tiny, g):
    """64 layers or more: llama.cpp then expects norms of queries and keys, with weights for each head."""
    made = tiny.base("command-r", 3, g, layers=64, tied=True, rms=False)
    made.set(logit_scale=0.0625, feed_forward_length=64)
    for i in range(made.n):
        p = f"blk.{i}."
        made.norm(p + "attn_norm.weight", g["d"])
        tiny.attention(made, p, g)
        tiny.dense_ffn(made, p, g["d"], 64)
        for name, n_head in (("q", g["h"]), ("k", g["kv"])):
            made.norm(f"{p}attn_{name}_norm.weight", n_head * g["hd"])
            made.tensors[f"{p}attn_{name}_norm.weight"] = made.tensors[f"{p}attn_{name}_norm.weight"].reshape(
                n_head, -1
            )
    return made

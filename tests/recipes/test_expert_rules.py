"""Our own choices for mixtures of experts: the same for any number of experts, and none for dense models."""

import pytest

from quanttool.container import TensorInfo
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.experts import expert_rules
from quanttool.recipes.mixes import load_mixes
from quanttool.recipes.resolve import Request, parse_target, resolve

from . import schema_models
from .ik_models import ATTENTION, EXPERTS, LATENT, SHARED, layers

MIXES = sorted({mix.name for mix in load_mixes()["llama.cpp"].values()})


def types(shapes, mix: str, rules: str = "quanttool", n_expert: int = 0, arch: str = "llama") -> dict[str, str]:
    tensors = [TensorInfo(name, BY_NAME["F32"], ne) for name, ne in shapes]
    keys = {"block_count": 16, "attention.head_count": 8, "attention.head_count_kv": 8, "expert_count": n_expert}
    metadata = {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in keys.items()}
    choices = resolve(metadata, tensors, Request(parse_target(mix, rules), imatrix=True))
    return {choice.tensor.name: choice.type.name for choice in choices}


@pytest.mark.parametrize("model", ["llama3_70b", "gemma3_4b", "qwen3_6_27b", "falcon_40b"])
def test_dense_models_get_what_llama_cpp_gives(model):
    for mix in MIXES:
        shapes = list(getattr(schema_models, model)())
        assert types(shapes, mix) == types(shapes, mix, "llama.cpp")


@pytest.mark.parametrize("mix", MIXES)
def test_the_number_of_experts_does_not_matter(mix):
    few, many = (types(layers(16, *ATTENTION, *EXPERTS, *SHARED, n_expert=n), mix, n_expert=n) for n in (2, 384))
    assert few == many


def test_eight_experts_keep_what_llama_cpp_gives_them():
    """Attention's keys, values and output, and the experts themselves; queries get more."""
    for mix in MIXES:
        shapes = list(layers(16, *ATTENTION, *EXPERTS, n_expert=8))
        ours, theirs = types(shapes, mix, n_expert=8), types(shapes, mix, "llama.cpp", n_expert=8)
        different = {name.rpartition(".")[0].split(".")[-1] for name in ours if ours[name] != theirs[name]}
        assert different <= {"attn_q"}


KINDS = ("attn_q", "attn_v", "attn_output", "ffn_up_shexp", "ffn_up_exps")


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("Q4_K_M", ("Q5_K", "Q8_0", "Q5_K", "Q6_K", "Q4_K")),
        ("IQ2_XS", ("Q5_K", "Q4_K", "Q5_K", "Q5_K", "IQ2_XS")),
        ("Q6_K", ("Q6_K", "Q8_0", "Q6_K", "Q6_K", "Q6_K")),
        ("Q8_0", ("Q8_0",) * 5),
        ("TQ2_0", ("TQ2_0",) * 5),
        ("F16", ("F16",) * 5),
    ],
)
def test_what_every_token_reads_gets_more_bits(mix, expected):
    """Layer 5 of 16: neither of the first nor of the last eighth."""
    chosen = types(layers(16, *ATTENTION, *EXPERTS, *SHARED, n_expert=128), mix, n_expert=128)
    assert tuple(chosen[f"blk.5.{kind}.weight"] for kind in KINDS) == expected


def test_latent_attention_and_dense_layers():
    dense = ("ffn_gate", "ffn_up", "ffn_down")
    shapes = layers(16, *LATENT, *EXPERTS, n_expert=256, first=(*LATENT, *dense))
    chosen = types(shapes, "IQ3_S", n_expert=256, arch="deepseek2")
    for kind in ("attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b"):
        assert chosen[f"blk.9.{kind}.weight"] == "Q8_0"
    assert chosen["blk.9.attn_q_b.weight"] == chosen["blk.0.ffn_down.weight"] == "Q5_K"
    assert chosen["blk.9.ffn_down_exps.weight"] == "IQ3_S"


def test_shared_experts_do_not_count_as_layers():
    """IQ2_XS gives ffn_down of the first eighth more bits: two layers of sixteen, not one with its shared expert."""
    chosen = types(layers(16, *ATTENTION, *EXPERTS, *SHARED, n_expert=64), "IQ2_XS", n_expert=64)
    assert [chosen[f"blk.{i}.ffn_down_exps.weight"] for i in range(4)] == ["Q2_K", "Q2_K", "IQ2_XS", "IQ2_XS"]


@pytest.mark.parametrize(
    ("model", "n_expert"), [("deepseek_v3", 256), ("qwen3_coder_next", 512), ("gpt_oss_120b", 128)]
)
def test_a_mixture_grows_by_a_few_percent(model, n_expert):
    def size(rules: str) -> int:
        chosen = types(getattr(schema_models, model)(), "Q4_K_M", rules, n_expert)
        return sum(TensorInfo(name, BY_NAME[chosen[name]], ne).n_bytes for name, ne in getattr(schema_models, model)())

    assert 1 <= size("quanttool") / size("llama.cpp") < 1.04


def test_exempt_mixes_exist():
    assert expert_rules().exempt <= set(MIXES)

"""Tensors that stay, and types that take over: as llama-quantize --dry-run decides on a file with all these names."""

import pytest

from quanttool.container import TensorInfo
from quanttool.errors import RecipeError
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.limits import fallback, reason_to_keep

# what llama-quantize made of tensors [256, 4] with these names, in a `llama` file, for Q8_0
QUANTIZED = """
    blk.0.attn_q.weight blk.0.ffn_gate_inp_shexp.weight per_layer_token_embd.weight blk.0.shortconv.in_proj.weight
    blk.0.indexer.attn_k.weight blk.0.time_mix_key.weight v.blk.0.attn_rel_pos_h.weight mm.0.weight blk.0.hc_attn.weight
    blk.0.attn_kv_a_mqa.weight blk.0.attn_k_b.weight output.weight token_embd.weight cls.weight blk.0.ssm_x.weight
    blk.0.ssm_dt.weight blk.0.ssm_out.weight
"""
KEPT = """
    blk.0.attn_q_norm.weight blk.0.attn_norm.weight blk.0.ffn_gate_inp.weight blk.0.ffn_gate_tid2eid.weight
    altup_proj.weight blk.0.altup_router.weight blk.0.laurel_l.weight per_layer_model_proj.weight position_embd.weight
    token_types.weight blk.0.ssm_conv1d.weight blk.0.ssm_conv1d_q.weight blk.0.shortconv.conv.weight
    blk.0.indexer.k_proj.weight blk.0.indexer.q_proj.weight blk.0.time_mix_first.weight blk.0.time_mix_w0.weight
    blk.0.time_mix_w1.weight blk.0.time_mix_w2.weight blk.0.time_mix_v0.weight blk.0.time_mix_v1.weight
    blk.0.time_mix_v2.weight blk.0.time_mix_a0.weight blk.0.time_mix_a1.weight blk.0.time_mix_a2.weight
    blk.0.time_mix_g1.weight blk.0.time_mix_g2.weight blk.0.time_mix_decay_w1.weight blk.0.time_mix_decay_w2.weight
    blk.0.time_mix_lerp_fused.weight blk.0.attn_rel_b.weight enc.blk.0.attn_rel_b.weight v.position_embd.weight
    v.sam.pos_embd.weight v.sam.neck.0.weight v.sam.net_2.weight v.rel_pos.weight v.patch_embd.weight
    v.patch_merger.weight a.rvq.codebook.weight mm.a.code_embd.weight blk.0.ffn_up.bias blk.0.exp_probs_b blk.0.ssm_a
    output_norm.weight
"""


def tensor(name: str, ne: tuple[int, ...] = (256, 4), kind: str = "F32") -> TensorInfo:
    return TensorInfo(name, BY_NAME[kind], ne)


def test_names_that_are_quantized():
    assert [name for name in QUANTIZED.split() if reason_to_keep(tensor(name), "llama")] == []


def test_names_that_stay():
    assert [name for name in KEPT.split() if not reason_to_keep(tensor(name), "llama")] == []


@pytest.mark.parametrize(
    ("ne", "kept"), [((256,), True), ((256, 1), True), ((256, 1, 1), True), ((256, 1, 3), False), ((1, 2), False)]
)
def test_dimensions_of_one_do_not_count(ne, kept):
    assert bool(reason_to_keep(tensor("blk.0.x.weight", ne), "llama")) == kept


def test_integers_stay():
    assert reason_to_keep(tensor("blk.0.x.weight", kind="I32"), "llama") == "integers"


def test_names_that_stay_in_one_architecture_only():
    for name in ("blk.0.hc_attn.weight", "blk.0.attn_kv_a_mqa.weight", "blk.0.indexer.proj.weight"):
        assert reason_to_keep(tensor(name), "glm5-next") and not reason_to_keep(tensor(name), "glm-dsa")


@pytest.mark.parametrize(
    ("wanted", "width", "taken"),
    [
        ("Q4_K", 512, "Q4_K"), ("Q4_K", 576, "Q5_0"), ("Q5_K", 576, "Q5_1"), ("Q6_K", 576, "Q8_0"),
        ("Q2_K", 576, "Q4_0"), ("Q3_K", 576, "Q4_0"), ("IQ4_XS", 576, "IQ4_NL"), ("IQ1_S", 576, "IQ4_NL"),
        ("TQ1_0", 576, "Q4_0"),
        ("Q4_K", 580, "F16"), ("Q4_0", 580, "F16"), ("Q8_0", 580, "F16"), ("F16", 580, "F16"), ("MXFP4", 580, "F16"),
        ("Q2_0", 96, "Q4_0"), ("Q2_0", 100, "F16"), ("IQ6_K", 96, "Q8_0"), ("IQ5_K", 96, "Q6_0"),
        ("IQ4_KS", 96, "IQ4_NL"),
    ],
)  # fmt: skip
def test_fallbacks(wanted, width, taken):
    assert fallback(tensor("a.weight", (width, 2)), BY_NAME[wanted]).name == taken


def test_no_fallback_is_an_error_with_a_remedy():
    with pytest.raises(RecipeError, match=r"a\.weight: rows are 96 wide, NVFP4 needs a multiple of 64 and has no fall"):
        fallback(tensor("a.weight", (96, 2)), BY_NAME["NVFP4"])


@pytest.mark.parametrize(
    ("name", "wanted", "ne", "taken"),
    [
        ("a.weight", "Q4_K_R4", (256, 8), "Q4_K_R4"), ("a.weight", "Q4_K_R4", (256, 6), "Q4_K"),
        ("a.weight", "Q4_K_R4", (288, 8), "Q5_0"), ("a.weight", "Q8_K_R8", (256, 4), "Q8_0"),
        ("a.weight", "BF16_R16", (31, 8), "BF16"), ("a.weight", "BF16_R16", (31, 32), "BF16_R16"),
        ("a.weight", "Q4_0_R8", (32, 4, 2), "Q4_0"),  # groups do not reach over from one expert to the next
        ("token_embd.weight", "IQ4_K_R4", (256, 8), "IQ4_K"),
    ],
)  # fmt: skip
def test_rows_woven_together_come_in_whole_groups(name, wanted, ne, taken):
    """ik_llama.cpp, src/llama-quantize.cpp: the type that is woven takes over, always so for token embeddings."""
    assert fallback(tensor(name, ne), BY_NAME[wanted]).name == taken

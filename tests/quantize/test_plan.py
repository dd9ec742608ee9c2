"""The plan: types, sizes, metadata, and what would stop a run."""

import numpy as np
import pytest

from quanttool.container import GGUFFile, GGUFValueType, Metadata, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.errors import ImatrixError, UsageError
from quanttool.ggml_types import BY_NAME
from quanttool.imatrix import Entry, Imatrix
from quanttool.quantize.plan import Plan, make_plan, rows, summary
from quanttool.recipes.resolve import Request, parse_target, weight_type
from quanttool.recipes.rules import parse_tensor_rule

from .small_model import SHAPES, importance_of, write_model


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> GGUFFile:
    return GGUFFile(write_model(tmp_path_factory.mktemp("plan") / "small.gguf"))


def plan_of(source: GGUFFile, target: str, imatrix: Imatrix | None = None, requantize=False, **options) -> Plan:
    request = Request(parse_target(target, "llama.cpp"), imatrix=imatrix is not None, **options)
    return make_plan(source.metadata, source.tensors.values(), request, imatrix, "im.gguf", requantize)


def full_imatrix() -> Imatrix:
    names = [n for n in SHAPES if n.startswith("blk") and not n.endswith(("norm.weight", "odd.weight"))]
    return Imatrix({name: importance_of(name) for name in names}, ["a.txt", "b.txt"], 5, 512)


def test_sizes_to_the_byte(source):
    plan = plan_of(source, "Q4_0")
    by_hand = {
        "output_norm.weight": 512 * 4,
        "output.weight": 96 * 2 * 210,  # Q6_K
        "blk.0.ffn_down.weight": 512 * 9 * 18,  # 288 = 9 blocks of 32
        "blk.0.odd.weight": 4 * 31 * 2,  # F16
        "blk.1.ffn_gate_inp.weight": 512 * 4 * 4,  # stays
        "blk.1.ffn_down_exps.weight": 512 * 4 * 8 * 18,
    }
    planned = {tensor.name: tensor.target.n_bytes for tensor in plan.tensors}
    assert {name: planned[name] for name in by_hand} == by_hand
    assert plan.tensor_bytes == sum(planned.values())
    assert plan.n_values == sum(int(np.prod(ne)) for ne in SHAPES.values())
    assert plan.bpw == 8 * plan.tensor_bytes / plan.n_values
    # header, then every tensor padded to 32 bytes
    padded = sum(-(-n // 32) * 32 for n in planned.values())
    assert padded < plan.file_bytes < padded + 4096 and plan.file_bytes % 32 == 0


def test_order_is_by_layer_then_name(source):
    names = [tensor.name for tensor in plan_of(source, "Q8_0").tensors]
    assert names[:4] == ["output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight"]
    assert names[-1] == "blk.1.ffn_up_exps.weight" and sorted(names) == sorted(SHAPES)


def test_fallbacks_are_counted_and_named(source):
    plan = plan_of(source, "Q4_K_M")
    fallen = {tensor.name: (tensor.wanted.name, tensor.type.name) for tensor in plan.tensors if tensor.wanted}
    assert fallen == {"blk.0.ffn_down.weight": ("Q4_K", "Q5_0"), "blk.0.odd.weight": ("Q4_K", "F16")}
    assert "2 of 18 tensors required a fallback type" in plan.warnings
    assert plan_of(source, "F16").warnings == []


def test_rules_have_no_effect_on_plain_types_and_it_says_so(source):
    plan = plan_of(source, "F16", rules=(parse_tensor_rule("attn=q8_0"),))
    assert any("no effect on F16" in warning for warning in plan.warnings)


def test_types_of_ik_llama_cpp_are_pointed_out(source):
    warnings = plan_of(source, "IQ4_KS").warnings
    assert any(w.startswith("only ik_llama.cpp loads a file with IQ4_KS") for w in warnings)
    assert not any("ik_llama.cpp" in w for w in plan_of(source, "IQ4_XS").warnings)


def test_metadata_in_the_order_of_llama_quantize(source):
    imatrix = full_imatrix()
    plan = plan_of(source, "IQ4_XS", imatrix)
    keys = list(plan.metadata)
    assert keys[:2] == ["general.architecture", "general.name"]
    assert keys[-6:] == [
        "general.quantization_version", "general.file_type", "quantize.imatrix.file", "quantize.imatrix.dataset",
        "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count",
    ]  # fmt: skip
    assert plan.metadata["general.file_type"] == (GGUFValueType.UINT32, (30).to_bytes(4, "little"))
    assert plan.metadata["quantize.imatrix.dataset"][1][8:] == b"a.txt"
    assert plan.metadata["quantize.imatrix.entries_count"][1] == len(imatrix.entries).to_bytes(4, "little")
    assert plan_of(source, "COPY").metadata["general.file_type"][1] == bytes(4)  # as the source says
    assert "general.file_type" not in plan_of(source, "IQ2_S_R4").metadata  # no file type, but a type of tensors


def test_types_that_need_an_imatrix_stop_a_run_before_it_starts(source):
    plan = plan_of(source, "IQ2_XS")
    assert isinstance(plan.problems[0], UsageError)
    assert "blk.0.attn_k.weight: IQ2_XS is useless without an imatrix" in str(plan.problems[0])
    assert not any("token_embd" in str(problem) or "output" in str(problem) for problem in plan.problems[:1])
    assert plan_of(source, "IQ2_XS", full_imatrix()).problems == []
    some = full_imatrix()
    del some.entries["blk.0.attn_q.weight"]
    problems = plan_of(source, "IQ2_XS", some).problems
    assert [str(p).partition(":")[0] for p in problems] == ["blk.0.attn_q.weight"] and "no entry" in str(problems[0])


def test_q2_k_needs_an_imatrix_only_in_q2_k_s(source):
    assert plan_of(source, "Q2_K").problems == [] and "Q2_K" in {t.type.name for t in plan_of(source, "Q2_K").tensors}
    assert all("Q2_K is useless without an imatrix in Q2_K_S" in str(p) for p in plan_of(source, "Q2_K_S").problems)
    assert plan_of(source, "Q2_K_S").problems


def test_output_and_embeddings_are_exempt(source):
    plan = plan_of(source, "Q4_0", output_type=weight_type("IQ3_XXS"), token_embedding_type=weight_type("IQ2_S"))
    assert plan.problems == []


def test_quantized_sources_need_permission(tmp_path, source):
    plan = plan_of(source, "Q4_0")
    quantized = [tensor.target for tensor in plan.tensors]
    request = Request(parse_target("Q5_0", "llama.cpp"))
    refused = make_plan(source.metadata, quantized, request)
    assert "blk.0.attn_k.weight is Q4_0 already" in [str(p).split(",")[0] for p in refused.problems]
    assert "--allow-requantize" in str(refused.problems[0])
    assert make_plan(source.metadata, quantized, request, allow_requantize=True).problems == []
    assert (
        make_plan(source.metadata, quantized, Request(parse_target("Q4_0", "llama.cpp"))).problems == []
    )  # nothing to convert


def test_an_imatrix_of_another_model_is_refused(source):
    stranger = Imatrix({"blk.0.other.weight": Entry(np.ones((1, 512)), np.ones(1, np.int64))}, ["x"], 1, 512)
    with pytest.raises(ImatrixError, match=r"im\.gguf: no entry is for a tensor of this model .*blk\.0\.other\.weight"):
        plan_of(source, "Q4_0", stranger)
    wrong = full_imatrix()
    wrong.entries["blk.0.attn_q.weight"] = Entry(np.ones((1, 256)), np.ones(1, np.int64))
    with pytest.raises(ImatrixError, match=r"attn_q\.weight has 256 channels, the tensor has 512"):
        plan_of(source, "Q4_0", wrong)
    per_expert = full_imatrix()
    per_expert.entries["blk.1.ffn_up_exps.weight"] = Entry(np.ones((1, 512)), np.ones(1, np.int64))
    with pytest.raises(ImatrixError, match=r"ffn_up_exps\.weight has 512 channels, the tensor has 2048"):
        plan_of(source, "Q4_0", per_expert)


def test_token_embeddings_with_another_width_are_only_a_warning(source):
    imatrix = full_imatrix()
    imatrix.entries["token_embd.weight"] = Entry(np.ones((1, 96)), np.ones(1, np.int64))
    plan = plan_of(source, "Q4_0", imatrix)
    assert any(w.startswith("token_embd.weight: its imatrix entry has another width") for w in plan.warnings)
    assert not next(t for t in plan.tensors if t.name == "token_embd.weight").importance


def test_gaps_in_an_imatrix_are_counted(source):
    imatrix = full_imatrix()
    del imatrix.entries["blk.0.attn_q.weight"], imatrix.entries["blk.0.attn_k.weight"]
    warnings = plan_of(source, "Q4_0", imatrix).warnings
    # the third is blk.0.odd.weight
    assert "the imatrix has no entry for 3 of the tensors to quantize, as blk.0.attn_k.weight" in warnings
    assert any(w.startswith("the imatrix never saw 3 of its matrices") for w in warnings)  # expert 2, three tensors


def test_slices_of_one_dense_tensor_may_share_a_count(source):
    imatrix = full_imatrix()
    imatrix.entries["blk.1.ffn_up_exps.weight"] = Entry(np.ones((1, 2048)), np.ones(1, np.int64))
    plan = plan_of(source, "Q4_0", imatrix)
    assert next(t for t in plan.tensors if t.name == "blk.1.ffn_up_exps.weight").importance


def test_summary_and_rows(source):
    plan = plan_of(source, "Q4_0")
    by_type = summary(plan)
    assert sum(n for n, _ in by_type.values()) == 18 and sum(b for _, b in by_type.values()) == plan.tensor_bytes
    assert next(iter(by_type)).name == "Q4_0"
    entry = next(row for row in rows(plan) if row["name"] == "blk.0.ffn_down.weight")
    assert entry == {
        "name": "blk.0.ffn_down.weight", "shape": [288, 512], "source_type": "F32", "type": "Q4_0",
        "reason": "Q4_0: base type", "bytes": 512 * 9 * 18,
    }  # fmt: skip


def copy_of(*kinds: str, file_type: int = 41) -> Plan:
    u32 = GGUFValueType.UINT32
    tensors = [TensorInfo(f"blk.{i}.x.weight", BY_NAME[kind], (256, 16)) for i, kind in enumerate(kinds)]
    metadata = Metadata({"general.file_type": (u32, encode_value(file_type, u32))})
    return make_plan(metadata, tensors, Request(parse_target("COPY")))


def test_a_contested_file_type_is_settled_by_the_tensors():
    q1, q2 = copy_of("Q1_0", "F32"), copy_of("Q2_0", "F32")
    assert Metadata(q1.metadata)["general.file_type"] == 40 and "the tensors are Q1_0" in q1.warnings[0]
    assert Metadata(q2.metadata)["general.file_type"] == 41 and not q2.warnings
    assert Metadata(copy_of("Q1_0", file_type=40).metadata)["general.file_type"] == 40


def test_types_of_both_programs_in_one_file_load_nowhere():
    assert "no program loads this file: llama.cpp does not know IQ4_K" in copy_of("NVFP4", "IQ4_K").warnings[0]
    assert copy_of("IQ4_K").warnings[0].startswith("only ik_llama.cpp loads")
    assert not copy_of("NVFP4", "Q4_K").warnings

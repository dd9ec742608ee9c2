"""The form that mixes are written in: what it means, and what is refused."""

from dataclasses import replace

import pytest

from quanttool.container import TensorInfo
from quanttool.errors import RecipeError, UsageError
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.conditions import parse_rule, parse_tests
from quanttool.recipes.mixes import MIX_RULES, find_mix, load_mixes, read_mixes
from quanttool.recipes.model_facts import ModelFacts, in_layer_order, layer_number
from quanttool.recipes.resolve import Request, parse_target, resolve, weight_type
from quanttool.recipes.rules import parse_tensor_rule

FACTS = {"arch": "llama", "n_layer": 32, "gqa": 4, "imatrix": False, "more_bits": True, "layer": 27, "n": 30}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("imatrix", False), ("not imatrix", True), ("more_bits and not imatrix", True),
        ("more_bits and imatrix", False),
        ("arch == llama", True), ("arch != llama", False), ("gqa >= 4", True), ("gqa > 4", False), ("gqa<5", True),
        ("layer >= 7n/8", True),  # 7 * 30 / 8 = 26.25, rounded down
        ("layer < 7n/8", False), ("layer > n/8", True), ("n_layer == 32", True),
    ],
)  # fmt: skip
def test_tests(text, holds):
    assert all(test.holds(FACTS) for test in parse_tests(text)) == holds


@pytest.mark.parametrize(
    "text", ["", "layers < 3", "gqa", "not gqa", "imatrix == 1", "layer < n", "gqa >= x", "arch > a"]
)
def test_tests_that_cannot_be_read_are_quoted(text):
    with pytest.raises(RecipeError, match="is not a test; known facts are arch"):
        parse_tests(text)


def test_a_rule_keeps_its_text():
    rule = parse_rule("Q6_K if gqa >= 4 and imatrix")
    assert (rule.type, len(rule.tests), rule.text) == ("Q6_K", 2, "Q6_K if gqa >= 4 and imatrix")
    with pytest.raises(RecipeError, match="expected a type"):
        parse_rule("Q6_K when imatrix")


SMALL = """
counted_classes = ["v"]
[classes]
v = ["attn_v"]
down = ["ffn_down", "=up"]
output = ["=output.weight"]
[facts]
big = ["n_layer == 4", "arch == huge"]
[first]
v = ["F16 if arch == odd"]
[family.f]
first.v = ["Q8_0 if n_expert == 8"]
default.down = ["Q5_0"]
last.v = ["Q5_K if type == Q4_K and big"]
[mix.A]
file_type = 99
base = "Q4_K"
family = "f"
v = ["Q6_K if nth < 1"]
other = ["Q5_1 if n_matrices > 1"]
[mix.B]
file_type = 98
base = "Q3_K"
[aliases]
Z = "A"
"""


def types(mix, arch="llama", n_expert=0, n_layer=4):
    names = ["blk.0.attn_v.weight", "blk.1.attn_v.weight", "up", "blk.0.ffn_down.weight", "blk.1.x.weight"]
    tensors = [TensorInfo(n, BY_NAME["F32"], (256, 2)) for n in names]
    tensors.append(TensorInfo("experts", BY_NAME["F32"], (256, 2, 2)))
    applied = mix.applied_to(ModelFacts(arch, n_layer, n_expert, 1), tensors, imatrix=False)
    return [applied.choose(tensor)[0].name for tensor in tensors]


def test_first_own_default_other_and_last(tmp_path):
    (tmp_path / "m.toml").write_text(SMALL)
    mixes = read_mixes(tmp_path / "m.toml")
    assert mixes["Z"] is mixes["A"] and mixes["A"].file_type == 99
    assert types(mixes["A"]) == ["Q6_K", "Q5_K", "Q5_0", "Q5_0", "Q4_K", "Q5_1"]  # 4 layers: big
    assert types(mixes["A"], n_layer=5) == ["Q6_K", "Q4_K", "Q5_0", "Q5_0", "Q4_K", "Q5_1"]
    assert types(mixes["A"], n_expert=8)[:2] == ["Q8_0", "Q8_0"]
    assert types(mixes["A"], arch="odd", n_expert=8)[:2] == ["F16", "F16"]
    assert types(mixes["B"]) == ["Q3_K"] * 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('v = ["Q6_K if nth', 'w = ["Q6_K if nth', "mix A: unknown class 'w'"),
        ("Q6_K if nth", "Q6_L if nth", "unknown type 'Q6_L'; did you mean Q6_K"),
        ("if nth < 1", "if nht < 1", "'nht < 1' is not a test"),
        ('family = "f"', 'family = "g"', "mix A: unknown family 'g'"),
        ('base = "Q4_K"', "", "missing or misplaced entry: 'base'"),
        ("[mix.A]", "[mix.A", "m.toml: "),
    ],
)
def test_mistakes_in_a_mix_file_name_the_file(tmp_path, old, new, message):
    assert old in SMALL
    (tmp_path / "m.toml").write_text(SMALL.replace(old, new))
    with pytest.raises(RecipeError, match=message) as error:
        read_mixes(tmp_path / "m.toml")
    assert "m.toml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("program", "least"), [("llama.cpp", 35), ("ik_llama.cpp", 74)])
def test_every_shipped_mix_has_its_own_file_type(program, least):
    mixes = {mix.name: mix for mix in load_mixes()[program].values()}
    assert len({mix.file_type for mix in mixes.values()}) == len(mixes) >= least


def test_mixes_by_name_and_by_whose_choices():
    mixes = load_mixes()
    assert find_mix("q4_k", "llama.cpp") is mixes["llama.cpp"]["Q4_K_M"]
    assert find_mix("q4_k", "ik_llama.cpp") is mixes["ik_llama.cpp"]["Q4_K_M"]
    ours = find_mix("q4_k")
    assert replace(ours, experts=None) == mixes["llama.cpp"]["Q4_K_M"] and ours.experts
    assert find_mix("Q4_K_X") is None and find_mix("TQ1_0") is mixes["llama.cpp"]["TQ1_0"]
    for rules in MIX_RULES:  # mixes that only one program has
        assert find_mix("IQ4_KSS", rules) is mixes["ik_llama.cpp"]["IQ4_KSS"]
        assert find_mix("MXFP4_MOE", rules) is mixes["llama.cpp"]["MXFP4_MOE"]


def test_type_names():
    assert parse_target("q4_k").name == "Q4_K_M" and parse_target("copy").base is None
    assert parse_target("iq2_s").base.name == "IQ2_XS"  # the mix of that name
    assert parse_target("iq4_k").mix.name == "IQ4_K" and parse_target("iq4_k").base.name == "IQ4_K"
    assert parse_target("nvfp4").mix is None and parse_target("nvfp4").base.name == "NVFP4"
    with pytest.raises(UsageError, match=r"unknown type 'Q4_M'; did you mean .*Q4_K_M"):
        parse_target("Q4_M")
    with pytest.raises(UsageError, match="not a type for weights"):
        parse_target("I32")
    with pytest.raises(UsageError, match=r"unknown type 'q4_k_m'; did you mean Q4_K"):
        weight_type("q4_k_m")


def test_tensor_rules():
    rule = parse_tensor_rule(r"BLK\.[01]\.ffn_(up|gate)=q8_0")
    assert (
        rule.type.name == "Q8_0" and rule.matches("blk.1.ffn_gate.weight") and not rule.matches("blk.2.ffn_up.weight")
    )
    for text in ("ffn_up", "=Q8_0", "ffn_up=", "ffn_up=Q8_9", "ffn_(up=Q8_0"):
        with pytest.raises(UsageError):
            parse_tensor_rule(text)


def test_layer_order():
    names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "blk.x", "token_embd.weight", "v.blk.3.a"]
    ordered = [t.name for t in in_layer_order(TensorInfo(n, BY_NAME["F32"], (1,)) for n in names)]
    assert " ".join(ordered) == "blk.x output.weight token_embd.weight v.blk.3.a blk.2.a blk.2.b blk.10.a"
    assert layer_number("blk.12.attn_q.weight") == 12 and layer_number("enc.blk.1.x") == -1


def test_facts_from_metadata():
    metadata = {
        "general.architecture": "x", "x.block_count": 30, "x.attention.head_count": [8, 16],
        "x.attention.head_count_kv": [2, 1],
    }  # fmt: skip
    assert ModelFacts.of(metadata) == ModelFacts("x", 30, 0, 4)
    assert ModelFacts.of({**metadata, "x.attention.head_count_kv": [0, 1]}).gqa == 0
    del metadata["x.attention.head_count_kv"]
    assert ModelFacts.of(metadata).gqa == 1
    assert ModelFacts.of({}) == ModelFacts("", 0, 0, 0)


def test_a_choice_says_why():
    def reasons(target: str, **options) -> dict[str, str]:
        shapes = {"token_embd.weight": (576, 9), "blk.0.attn_v.weight": (512, 4), "blk.0.attn_norm.weight": (512,)}
        tensors = [TensorInfo(name, BY_NAME["F32"], ne) for name, ne in shapes.items()]
        return {c.tensor.name: c.reason for c in resolve({}, tensors, Request(parse_target(target), **options))}

    assert reasons("Q2_K") == {
        "token_embd.weight": "Q2_K: output = Q8_0 if not divides",
        "blk.0.attn_v.weight": "Q2_K: attn_v = Q3_K",
        "blk.0.attn_norm.weight": "kept: one dimension",
    }
    assert reasons("Q2_K", pure=True)["token_embd.weight"] == (
        "fallback from Q2_K: rows of 576 do not divide by 256 (Q2_K: all weights)"
    )
    assert reasons("Q2_K", rules=(parse_tensor_rule("attn_v=q8_0"),))["blk.0.attn_v.weight"] == "rule attn_v=q8_0"
    assert reasons("F16")["blk.0.attn_v.weight"] == "F16: all weights"
    assert reasons("COPY")["blk.0.attn_v.weight"] == "copied"

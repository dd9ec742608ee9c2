"""Which tensors are woven, and into what."""

import re

import pytest

from quanttool.container import TensorInfo
from quanttool.errors import UsageError
from quanttool.formats.repacked import REPACKED_TYPES
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.repack import WOVEN, Repacking, parse_repacking
from quanttool.recipes.resolve import Request, parse_target


def tensor(kind: str, ne=(256, 8), name="blk.0.attn_q.weight") -> TensorInfo:
    return TensorInfo(name, BY_NAME[kind], ne)


def test_every_type_that_can_be_woven():
    assert {base.name: woven.name for base, woven in WOVEN.items()} == REPACKED_TYPES


@pytest.mark.parametrize(
    ("kind", "ne", "name", "woven"),
    [
        ("Q4_K", (256, 8), "a.weight", "Q4_K_R4"), ("Q4_K", (256, 6), "a.weight", "Q4_K"),
        ("Q4_0", (256, 4, 2), "a.weight", "Q4_0"), ("Q4_0", (256, 8, 2), "a.weight", "Q4_0_R8"),
        ("Q6_K", (256, 8), "token_embd.weight", "Q6_K"), ("F32", (256, 8), "a.weight", "F32"),
        ("IQ1_S", (256, 8), "a.weight", "IQ1_S"), ("IQ4_K_R4", (256, 8), "a.weight", "IQ4_K_R4"),
        ("BF16", (256, 16), "a.weight", "BF16"),
    ],
)  # fmt: skip
def test_weaving(kind, ne, name, woven):
    assert Repacking().type_of(tensor(kind, ne, name)).name == woven


def test_patterns_choose_tensors_and_ask_for_bf16():
    some = parse_repacking((r"blk\.[01],attn_k", "output"), unpack=False)
    assert some == Repacking(tuple(map(re.compile, (r"blk\.[01]", "attn_k", "output"))))
    assert some.type_of(tensor("Q8_0")).name == "Q8_0_R8"
    assert some.type_of(tensor("Q8_0", name="blk.2.attn_q.weight")).name == "Q8_0"
    assert some.type_of(tensor("BF16", (256, 16))).name == "BF16_R16"


def test_unpacking():
    apart = Repacking(unpack=True)
    assert apart.type_of(tensor("IQ4_KS_R4")).name == "IQ4_KS" and apart.type_of(tensor("Q8_0")).name == "Q8_0"
    assert apart.type_of(tensor("Q8_K_R8")).name == "Q8_K_R8"  # its bits are not those of Q8_0
    assert apart.type_of(tensor("IQ1_S_R4")).name == "IQ1_S_R4"


def test_file_types():
    """Numbers of ik_llama.cpp's include/llama.h."""
    assert [Repacking().file_type(n) for n in (15, 14, 140, 24, 202)] == [214, 214, 340, 24, 202]
    assert [Repacking(unpack=True).file_type(n) for n in (340, 202, 214, 7)] == [140, 2, None, 7]


def test_it_goes_with_copy_only():
    with pytest.raises(UsageError, match="go with COPY, not with Q4_K_M"):
        Request(parse_target("Q4_K_M"), repacking=Repacking())
    with pytest.raises(UsageError, match="not a regular expression"):
        parse_repacking(("a(",), False)

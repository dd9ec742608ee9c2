"""Rules as three programs read them. What llama.cpp and ik_llama.cpp do is in their `parse_tensor_type` and
`parse_custom_quants`; the expectations here were read off those functions by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttool.errors import QuanttoolError, RecipeError
from quanttool.ggml_types import BY_NAME
from quanttool.recipes.dialects import DIALECTS, IK_NAMES, format_rules, parse_rules


def pairs(text: str, dialect: str) -> list[tuple[str, str]]:
    return [(rule.pattern.pattern, rule.type.name) for rule in parse_rules(text, dialect)]


OWN = r"""
# attention
blk\.[0-9]\.attn_k=q8_0      # eight bits
blk\.\d{1,2}\.ffn_(up|gate)=IQ4_KS, ffn_down = Q6_K,
token_embd\.weight=Q8_0
"""


def test_our_form():
    assert pairs(OWN, "quanttool") == [
        (r"blk\.[0-9]\.attn_k", "Q8_0"), (r"blk\.\d{1,2}\.ffn_(up|gate)", "IQ4_KS"), ("ffn_down", "Q6_K"),
        (r"token_embd\.weight", "Q8_0"),
    ]  # fmt: skip
    assert pairs("", "quanttool") == [] and pairs(" # nothing", "quanttool") == []
    assert pairs("a[=,]b=Q8_0,c=F16", "quanttool") == [("a[=,]b", "Q8_0"), ("c", "F16")]


def test_llama_cpp_lowers_the_pattern_and_cuts_at_white_space():
    assert pairs("BLK\\.\\D=q8_0\tffn_down=Q6_k", "llama.cpp") == [("blk\\.\\d", "Q8_0"), ("ffn_down", "Q6_K")]
    with pytest.raises(RecipeError, match="'#': expected REGEX=TYPE"):
        parse_rules("# a=Q8_0", "llama.cpp")
    with pytest.raises(RecipeError, match="unknown type 'q8_0,b=q6_K'"):
        parse_rules("a=q8_0,b=q6_K", "llama.cpp")


def test_ik_llama_cpp_keeps_the_pattern_and_cuts_at_commas():
    assert pairs("BLK\\.\\D=q8_0,ffn_down=q6_K", "ik_llama.cpp") == [("BLK\\.\\D", "Q8_0"), ("ffn_down", "Q6_K")]
    assert pairs("# note\na=iq4_ks\n\n  # b=f16\nb=q8_KV\n", "ik_llama.cpp") == [("a", "IQ4_KS"), ("b", "Q8_KV")]
    assert pairs("a=q8_0, b=q8_0", "ik_llama.cpp")[1] == (" b", "Q8_0")  # never matches a name
    for text, words in [
        (r"\d{1,2}=q8_0", "expected REGEX=TYPE"), ("a=q8_0,", "expected REGEX=TYPE"),
        ("a=Q4_K", "no type 'Q4_K'; it spells it 'q4_K'"), ("a=tq1_0", "no type 'tq1_0'"), ("a=b=q8_0", "'b=q8_0'"),
        ("a=q8_0 ", "it spells it 'q8_0'"),
    ]:  # fmt: skip
        with pytest.raises(RecipeError, match=words.replace("(", r"\(")):
            parse_rules(text, "ik_llama.cpp")


def test_names_that_ik_llama_cpp_does_not_spell_in_lower_case():
    odd = {name: kind.name for name, kind in IK_NAMES.items() if name != kind.name.lower()}
    assert odd == {
        "q2_K": "Q2_K", "q3_K": "Q3_K", "q4_K": "Q4_K", "q5_K": "Q5_K", "q6_K": "Q6_K", "q8_K": "Q8_K",
        "q8_KV": "Q8_KV", "q8_KV_r8": "Q8_KV_R8", "q1_0_g128": "Q1_0",
    }  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_dialect_says_it_reads_back(dialect):
    rules = parse_rules(r"blk\.(1|2)\.ffn_down=Q6_K,^output\.weight$=Q8_0", "quanttool")
    again = parse_rules(format_rules(rules, dialect), dialect)
    assert [(r.pattern, r.type) for r in again] == [(r.pattern, r.type) for r in rules]


@pytest.mark.parametrize(
    ("text", "dialect", "words"),
    [
        (r"a\d{1,2}=Q8_0", "ik_llama.cpp", "cannot contain ','"), (r"blk\.\D=Q8_0", "llama.cpp", "something else"),
        ("a b=Q8_0", "llama.cpp", "cannot contain ' '"), ("a=IQ4_KS", "llama.cpp", "llama.cpp has no IQ4_KS"),
        ("a=TQ1_0", "ik_llama.cpp", "ik_llama.cpp has no TQ1_0"),
    ],
)  # fmt: skip
def test_what_a_dialect_cannot_say(text, dialect, words):
    with pytest.raises(RecipeError, match=words):
        format_rules(parse_rules(text), dialect)


def test_posix_classes_as_in_c_plus_plus():
    (rule,) = parse_rules(r"blk\.[[:digit:]]+\.attn_[[:alpha:]]\.=Q8_0")
    assert rule.matches("blk.12.attn_q.weight") and not rule.matches("blk.x.attn_q.weight")
    with pytest.raises(RecipeError, match="not a regular expression"):
        parse_rules("[[:nonsense:]]=Q8_0")


@pytest.mark.parametrize("dialect", DIALECTS)
@given(st.text("ab\\.*+?()[]{}|^$=,#: \n\t0189-dDQ_Kqk\u0662é", max_size=40))
def test_any_text_is_read_or_refused(dialect, text):
    try:
        rules = parse_rules(text, dialect)
    except QuanttoolError as error:
        assert "\n" not in str(error)
        return
    assert len(rules) <= len(text) and all(rule.type in BY_NAME.values() for rule in rules)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([r"blk\.\d+\.", "^output$", "[a,b]", r"x{1,2}", "(a|b)=c", "a b", "#x"]),
            st.sampled_from(["Q8_0", "IQ4_KS"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(DIALECTS),
)
def test_formatted_rules_mean_the_same_or_are_refused(wanted, dialect):
    rules = [rule for pattern, kind in wanted for rule in parse_rules(f"{pattern}={kind}")]
    try:
        text = format_rules(rules, dialect)
    except RecipeError:
        return
    assert pairs(text, dialect) == [(rule.pattern.pattern, rule.type.name) for rule in rules]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [(dialect, text) for dialect in DIALECTS for text in ("", "\n\n")]
    + [("quanttool", "# only a comment\n"), ("ik_llama.cpp", "# only a comment\n")],
)
def test_a_text_without_rules_has_none(dialect, text):
    assert parse_rules(text, dialect) == []

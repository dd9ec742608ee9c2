"""Wishes of users, put as a knapsack, on a small mixture of experts."""

import itertools
import math
import re

import pytest

from quanttool.container import GGUFFile
from quanttool.errors import RecipeError
from quanttool.ggml_types import BY_NAME, ggml_type
from quanttool.optimize.allocation import Problem, Wishes
from quanttool.optimize.costs import Costs
from quanttool.optimize.recipe import Budget, as_recipe, smallest_divergence, smallest_file
from quanttool.quantize.plan import make_plan
from quanttool.recipes.resolve import Request, parse_target
from quanttool.recipes.rules import parse_tensor_rule
from tests.quantize.small_model import write_model

PALETTE = tuple(map(ggml_type, ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_0")))
KEPT = ("output_norm", "attn_norm", "ffn_gate_inp")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return GGUFFile(write_model(tmp_path_factory.mktemp("small") / "small.gguf"))


def costs_of(tensors, skipped=()):
    """Made-up costs that fall by 4 a bit, and differ from tensor to tensor."""
    measured = {}
    for i, tensor in enumerate(tensors):
        if tensor.name.startswith("blk") and tensor.name not in skipped:
            gain = 1 + (i * 7) % 5
            names = [*(kind.name for kind in PALETTE), "IQ4_NL", "Q4_0", "Q5_0", "F16"]
            measured[tensor.name] = {name: gain * tensor.n_values * 4 ** -BY_NAME[name].bpw for name in names}
    return measured


def problem(model, skipped=(), **wishes):
    tensors = list(model.tensors.values())
    costs = Costs(costs_of(tensors, skipped), tensors)
    return Problem(tensors, "llama", costs, Wishes(PALETTE, **wishes))


def test_norms_and_routers_stay_and_the_rest_gets_types_of_the_palette(model):
    found = smallest_divergence(problem(model), Budget(bpw=5.0))
    for tensor in model.tensors.values():
        kind = found.types[tensor.name]
        if any(piece in tensor.name for piece in KEPT):
            assert kind is tensor.type
        elif tensor.n_cols % 256 == 0:
            assert kind in PALETTE
    assert {"Q4_0", "Q5_0", "Q8_0"} & {found.types["blk.0.ffn_down.weight"].name}  # 288 wide: fallbacks
    assert found.types["blk.0.odd.weight"].name == "F16"  # 31 wide: nothing else


def test_the_file_is_not_a_byte_too_large(model):
    one = problem(model)

    def file_bytes(found):
        recipe = as_recipe(model.tensors.values(), "llama", found, "x", "")
        request = Request(parse_target(recipe.base), rules=recipe.rules)
        plan = make_plan(model.metadata, model.tensors.values(), request)
        assert {tensor.name: tensor.type for tensor in plan.tensors} == found.types
        return plan.file_bytes

    exact = file_bytes(smallest_divergence(one, Budget(bpw=5.0)))
    again = smallest_divergence(one, Budget(file_bytes=exact), file_bytes)
    assert file_bytes(again) <= exact
    less = smallest_divergence(one, Budget(file_bytes=exact - 1), file_bytes)
    assert file_bytes(less) < exact
    assert less.total >= again.total


def test_it_is_the_best_of_all_choices(model):
    names = ("blk.0.attn_q", "blk.0.attn_k", "blk.1.attn_v", "blk.1.ffn_up_exps", "blk.0.ffn_up")
    keep = tuple(parse_tensor_rule(f"^(?!({'|'.join(names)})\\.weight)=Q8_0") for _ in range(1))
    one = problem(model, keep=keep)
    budget = Budget(bpw=6.4)
    found = smallest_divergence(one, budget)
    limit = budget.limits(one)[0]
    free = [model.tensors[f"{name}.weight"] for name in names]
    rest = sum(limit.use(t, found.types[t.name]) for t in model.tensors.values() if t not in free)
    best = min(
        sum(one.costs.of(tensor, kind) for tensor, kind in zip(free, kinds, strict=True))
        for kinds in itertools.product(PALETTE, repeat=len(free))
        if rest + sum(limit.use(t, k) for t, k in zip(free, kinds, strict=True)) <= limit.amount
    )
    assert sum(one.costs.of(t, found.types[t.name]) for t in free) == pytest.approx(best, rel=1e-9)
    assert found.bound <= found.objective * (1 + 1e-12)


def test_each_class_keeps_to_its_own_budget(model):
    classes = ((re.compile("_exps"), 700_000), (re.compile("."), 700_000))
    found = smallest_divergence(problem(model), Budget(classes=classes))
    exps = [t for t in model.tensors.values() if "_exps" in t.name]
    used = sum(problem(model).wishes.padded_bytes(t, found.types[t.name]) for t in exps)
    assert used == found.ranges[0].used <= 700_000
    assert found.ranges[1].used <= 700_000
    assert all(r.least <= r.used <= r.most for r in found.ranges)


def test_too_small_a_budget_says_what_is_needed(model):
    with pytest.raises(RecipeError, match=r"class _exps: nothing fits into 1,000; these types need at least \d"):
        smallest_divergence(problem(model), Budget(classes=((re.compile("_exps"), 1000),)))


def test_tied_tensors_get_one_type(model):
    ties = (re.compile("ffn_(gate|up)"), re.compile("attn_[qk]"))
    found = smallest_divergence(problem(model, ties=ties), Budget(bpw=4.7))
    for pair in (("blk.0.ffn_gate", "blk.0.ffn_up"), ("blk.0.attn_q", "blk.0.attn_k")):
        a, b = (found.types[f"{name}.weight"] for name in pair)
        assert a is b
    untied = smallest_divergence(problem(model), Budget(bpw=4.7))
    assert untied.total <= found.total


def test_keep_and_palettes_and_floors(model):
    one = problem(
        model,
        keep=(parse_tensor_rule("attn_v=Q6_K"),),
        palettes=((re.compile("attn_k"), (ggml_type("Q8_0"),)),),
    )
    found = smallest_divergence(one, Budget(bpw=4.6))
    assert found.types["blk.0.attn_v.weight"].name == found.types["blk.1.attn_v.weight"].name == "Q6_K"
    assert found.types["blk.0.attn_k.weight"].name == "Q8_0"
    assert found.types["output.weight"].bpw >= 4  # protected
    smallest, unprotected = (problem(model, protect=protect) for protect in (True, False))
    low = smallest_divergence(unprotected, Budget(bpw=3.0))
    assert low.types["output.weight"].name in ("Q2_K", "Q3_K")
    assert smallest_divergence(smallest, Budget(bpw=3.6)).types["output.weight"].bpw >= 4


def test_a_tensor_without_measurement_costs_as_much_as_the_worst_of_its_kind(model):
    tensors = list(model.tensors.values())
    measured = costs_of(tensors, skipped=("blk.1.attn_v.weight",))
    costs = Costs(measured, tensors)
    q4 = ggml_type("Q4_K")
    kin, lost, other = (model.tensors[f"{n}.weight"] for n in ("blk.0.attn_v", "blk.1.attn_v", "output"))
    assert costs.of(lost, q4) == pytest.approx(costs.of(kin, q4) * lost.n_values / kin.n_values)
    worst = max(row["Q4_K"] / model.tensors[name].n_values for name, row in measured.items())
    assert worst > 0
    assert costs.of(other, q4) == pytest.approx(worst * other.n_values)
    assert costs.of(kin, ggml_type("Q4_1")) == costs.of(kin, q4)  # the next smaller that is known
    assert costs.of(kin, ggml_type("IQ1_S")) is None
    assert "blk.1.attn_v.weight" in problem(model, skipped=("blk.1.attn_v.weight",)).unmeasured


def test_the_smallest_file_for_a_divergence(model):
    one = problem(model)
    total = smallest_divergence(one, Budget(bpw=5.0)).total
    found = smallest_file(one, total, Budget())
    assert found.total <= total
    assert found.objective == sum(one.wishes.padded_bytes(t, found.types[t.name]) for t in model.tensors.values())
    assert math.isclose(found.objective, smallest_file(one, total * (1 + 1e-9), Budget()).objective)

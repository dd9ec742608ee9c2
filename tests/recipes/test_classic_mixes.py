"""Every mix of llama.cpp on twelve models: the types must be those of its own tables.

tests/golden/mixes/*.schema are llama.cpp's tests/snapshots (MIT), with the layers of a tensor written as one line:
`blk.[0-2,5].attn_v.weight q4_K`. Exceptions stand below the mix's name, beside which is its default type.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quanttool.errors import RecipeError
from quanttool.recipes.resolve import Request, parse_target, resolve, weight_type
from quanttool.recipes.rules import parse_tensor_rule

from .schema_models import MODELS, metadata, tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "mixes"
COMPACT = re.compile(r"blk\.\[([\d,-]+)\]\.(\S+)")


@dataclass
class Schema:
    dimensions: dict[str, int]
    default: dict[str, str] = field(default_factory=dict)  # mix -> type
    exceptions: dict[str, dict[str, str]] = field(default_factory=dict)  # mix -> tensor -> type


def expanded(name: str) -> list[str]:
    match = COMPACT.fullmatch(name)
    if not match:
        return [name]
    layers: list[int] = []
    for part in match[1].split(","):
        first, _, last = part.partition("-")
        layers += range(int(first), int(last or first) + 1)
    return [f"blk.{layer}.{match[2]}" for layer in layers]


def read_schema(path: Path) -> Schema:
    lines = path.read_text().splitlines()
    schema = Schema({key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", lines[1])})
    mix = ""
    for line in filter(None, lines[2:]):
        left, right = line.rsplit(" ", 1)
        if left.startswith("["):
            mix = left[1:-1]
            schema.default[mix], schema.exceptions[mix] = right.upper(), {}
        else:
            schema.exceptions[mix].update(dict.fromkeys(expanded(left), right.upper()))
    return schema


@pytest.mark.parametrize("model", MODELS)
def test_types_equal_those_of_llama_cpp(model):
    schema = read_schema(GOLDEN / f"{model}.schema")
    assert len(schema.default) == 33
    for mix, default in schema.default.items():
        target = parse_target(mix, "llama.cpp")
        assert target.base.name == default
        choices = resolve(metadata(model, schema.dimensions), tensors(model), Request(target))
        quantized = {c.tensor.name: c.type.name for c in choices if not c.reason.startswith("kept")}
        exceptions = {name: kind for name, kind in quantized.items() if kind != default}
        assert exceptions == schema.exceptions[mix], mix


def parse_options(words: list[str]) -> dict:
    """Options of llama-quantize, as fields of a Request."""
    fields, words = {"rules": ()}, list(words)
    while words:
        option = words.pop(0)
        if option == "--tensor-type":
            fields["rules"] += (parse_tensor_rule(words.pop(0)),)
        elif option in ("--output-tensor-type", "--token-embedding-type"):
            fields[option[2:].replace("-", "_").replace("tensor_", "")] = weight_type(words.pop(0))
        else:
            fields[{"--pure": "pure", "--leave-output-tensor": "leave_output"}[option]] = True
    return fields


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("dry-run/*.schema")), ids=lambda p: p.stem)
def test_types_equal_those_of_a_dry_run(path):
    """llama-quantize --dry-run on models made to reach the other rules: with an imatrix, eight experts, options."""
    schema = read_schema(path)
    model = re.match(r"# Model: ([^,]+),", path.read_text())[1]
    assert len(schema.default) >= 30
    for run, default in schema.default.items():
        mix, *options = run.split()
        request = Request(
            parse_target(mix, "llama.cpp"), imatrix=bool(schema.dimensions.get("imatrix")), **parse_options(options)
        )
        choices = resolve(metadata(model, schema.dimensions), tensors(model), request)
        types = {c.tensor.name: c.type.name for c in choices}
        assert types == {**dict.fromkeys(types, default), **schema.exceptions[run]}, run


def test_a_type_without_fallback_names_tensor_and_remedy():
    """llama-quantize: 'no tensor type fallback is defined for type q1_0'."""
    dimensions = {"n_layer": 24, "n_head": 9, "n_head_kv": 9}
    with pytest.raises(RecipeError, match=r"blk\.0\.attn_k\.weight: rows are 576 wide, Q1_0 needs a multiple of 128"):
        resolve(metadata("small-tied", dimensions), tensors("small-tied"), Request(parse_target("Q1_0")))


def test_an_explicit_type_has_no_fallback():
    request = Request(parse_target("Q4_K_M"), token_embedding_type=weight_type("Q4_K"))
    dimensions = {"n_layer": 24, "n_head": 9, "n_head_kv": 9}
    with pytest.raises(RecipeError, match=r"token_embd\.weight: .*--token-embedding-type does not suit .*by 256"):
        resolve(metadata("small-tied", dimensions), tensors("small-tied"), request)

"""`quanttool recipe`: look at recipes, check them, take them from a file, write them in another program's form."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import json_option, note, print_json, print_table
from .recipe_compare import command as compare
from .recipe_optimize import command as optimize
from .recipes import DIALECTS, dialect_option

if TYPE_CHECKING:
    from ..recipes.recipe import Recipe
    from ..recipes.review import RuleReview

EPILOG = """
\b
RECIPE is a file of REGEX=TYPE lines, a TOML file, or the text itself:
  quanttool recipe optimize model-f16.gguf --sensitivity model.json --size 4.2GiB -o my.toml
  quanttool recipe show model-f16.gguf 'attn_v=Q8_0,ffn_down_exps=IQ4_XS' --type IQ3_M
  quanttool recipe lint my.recipe model-f16.gguf
  quanttool recipe extract model-UD-Q4_K_XL.gguf -o xl.toml
  quanttool recipe convert xl.toml --to ik_llama.cpp
"""

output_option = click.option("-o", "--output", metavar="FILE", help="Write there instead of standard output.")
type_option = click.option("--type", "type_name", metavar="TYPE", help="TYPE of the other tensors; default: its base.")


@click.group(epilog=EPILOG)
def command() -> None:
    """Find the best recipe for a size; look at recipes, check them, take them from a file, convert them."""


command.add_command(optimize, "optimize")
command.add_command(compare, "compare")


@command.command()
@click.argument("model", metavar="MODEL.gguf")
@click.argument("recipe_source", metavar="RECIPE")
@type_option
@dialect_option
@json_option
def show(model: str, recipe_source: str, type_name: str | None, recipe_dialect: str | None, as_json: bool) -> None:
    """Show what every rule of RECIPE does to MODEL: what it matches, decides, and where it falls back."""
    from ..recipes.recipe import read_recipe

    recipe = read_recipe(recipe_source, recipe_dialect)
    reviews, others = _reviews(model, recipe, type_name)
    if as_json:
        print_json([_as_data(number, one) for number, one in enumerate(reviews, 1)])
        return
    if recipe.name:
        click.echo(f"{recipe.name}{f', by {recipe.author}' if recipe.author else ''}")
    if recipe.notes:
        click.echo(recipe.notes)
    print_table(
        [">", "rule", ">matches", ">decides", "as", "remarks"],
        [
            (
                str(number),
                one.rule.text,
                str(len(one.decided) + len(one.shadowed) + len(one.settled)),
                str(len(one.decided)),
                one.decided[0] if one.decided else "",
                one.verdict,
            )
            for number, one in enumerate(reviews, 1)
        ],
    )
    click.echo(f"{others} tensors to quantize are decided by no rule")


@command.command()
@click.argument("recipe_source", metavar="RECIPE")
@click.argument("model", metavar="[MODEL.gguf]", required=False)
@type_option
@dialect_option
def lint(recipe_source: str, model: str | None, type_name: str | None, recipe_dialect: str | None) -> None:
    """Say what looks like a mistake in RECIPE, also against MODEL if it is given. Exit code 1 if anything does."""
    from ..recipes import review
    from ..recipes.recipe import read_recipe

    recipe = read_recipe(recipe_source, recipe_dialect)
    findings = review.lint(recipe.rules)
    if model:
        findings += [f"{one.rule.text}: {one.verdict}" for one in _reviews(model, recipe, type_name)[0] if one.verdict]
    for finding in findings:
        click.echo(finding)
    note(f"{len(recipe.rules)} rules, {len(findings)} findings")
    if findings:
        click.get_current_context().exit(1)


@command.command()
@click.argument("model", metavar="MODEL.gguf")
@output_option
def extract(model: str, output: str | None) -> None:
    """Write a recipe that gives every tensor of a model like MODEL the type it has in MODEL, as TOML."""
    from ..container import open_gguf
    from ..recipes.extract import extract as extract_recipe
    from ..recipes.model_facts import ModelFacts
    from ..recipes.recipe import to_toml

    source = open_gguf(model, header_only=True)
    recipe = extract_recipe(source.tensors.values(), ModelFacts.of(source.metadata).arch, Path(model).stem)
    _write(to_toml(recipe), output, [model])


@command.command()
@click.argument("recipe_source", metavar="RECIPE")
@click.option(
    "--to", "wanted", type=click.Choice(["toml", *DIALECTS]), required=True, help="Form to write the recipe in."
)
@dialect_option
@output_option
def convert(recipe_source: str, wanted: str, recipe_dialect: str | None, output: str | None) -> None:
    """Write RECIPE in the form of another program. What that form cannot say is an error."""
    from ..recipes.dialects import format_rules
    from ..recipes.recipe import read_recipe, to_toml

    recipe = read_recipe(recipe_source, recipe_dialect)
    text = to_toml(recipe) if wanted == "toml" else format_rules(recipe.rules, wanted) + "\n"
    _write(text, output, [recipe_source])


def _reviews(model: str, recipe: "Recipe", type_name: str | None) -> "tuple[list[RuleReview], int]":
    """A review per rule, and how many tensors to quantize no rule decides."""
    from ..container import open_gguf
    from ..recipes.limits import reason_to_keep
    from ..recipes.model_facts import ModelFacts
    from ..recipes.resolve import Request, parse_target, resolve
    from ..recipes.review import review

    source = open_gguf(model, header_only=True)
    target = parse_target(type_name or recipe.base or "Q8_0")
    choices = resolve(source.metadata, source.tensors.values(), Request(target, rules=recipe.rules))
    arch = ModelFacts.of(source.metadata).arch
    others = sum(choice.rule is None and not reason_to_keep(choice.tensor, arch) for choice in choices)
    return review(recipe.rules, choices), others


def _as_data(number: int, one: "RuleReview") -> dict:
    return {
        "number": number,
        "rule": one.rule.text,
        "type": one.rule.type.name,
        "decided": one.decided,
        "fallbacks": one.fallbacks,
        "shadowed": one.shadowed,
        "settled": one.settled,
        "verdict": one.verdict,
    }


def _write(text: str, output: str | None, inputs: list[str]) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    from ..files import atomic_output, check_output

    check_output(output, inputs)
    with atomic_output(output) as file:
        file.write(text.encode())

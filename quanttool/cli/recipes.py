"""What the commands that take recipes share: the dialect option, and rules from all places in their order."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import warn

if TYPE_CHECKING:
    from ..recipes.recipe import Recipe
    from ..recipes.rules import TensorRule

DIALECTS = ("quanttool", "llama.cpp", "ik_llama.cpp")  # those of recipes.dialects, without importing it

dialect_option = click.option(
    "--recipe-dialect",
    type=click.Choice(DIALECTS),
    help="Program whose reading of the rules applies; default: what the recipe says, or quanttool.",
)


def given_rules(
    tensor_types: tuple[str, ...], tensor_type_file: str | None, recipe: "Recipe | None", pure: bool
) -> "tuple[TensorRule, ...]":
    """Rules in the order in which they are asked: --tensor-type, --tensor-type-file, --recipe."""
    from ..errors import RecipeError, UsageError
    from ..recipes.dialects import parse_rules
    from ..recipes.rules import parse_tensor_rule

    rules = [parse_tensor_rule(text) for text in tensor_types]
    if tensor_type_file:
        if not Path(tensor_type_file).is_file():
            raise UsageError(f"{tensor_type_file}: no such file")
        try:
            rules += parse_rules(Path(tensor_type_file).read_text(encoding="utf-8"), "llama.cpp")
        except (RecipeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{tensor_type_file}: {error}") from None
    if recipe:
        if pure and recipe.rules and not recipe.rules_under(pure):
            warn("--pure puts the recipe's rules aside, as in ik_llama.cpp")
        rules += recipe.rules_under(pure)
    return tuple(rules)

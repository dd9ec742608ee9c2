"""Recipes: rules with a name, an author, a base mix and notes; a text file, a TOML file, or just text."""

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..data_folders import data_folder
from ..errors import RecipeError, UsageError
from .dialects import DIALECTS, Dialect, format_rules, parse_rules
from .rules import TensorRule

_KEYS = {"name", "author", "base", "notes", "dialect", "rules"}


@dataclass(frozen=True)
class Recipe:
    """Rules, the first match wins; `base` is the TYPE for all tensors that none matches, "" if the user must say."""

    rules: tuple[TensorRule, ...]
    name: str = ""
    author: str = ""
    base: str = ""
    notes: str = ""
    dialect: Dialect = "quanttool"

    def rules_under(self, pure: bool) -> tuple[TensorRule, ...]:
        """The rules that count: ik_llama.cpp's --pure puts them aside, llama.cpp's and ours keeps them."""
        return () if pure and self.dialect == "ik_llama.cpp" else self.rules


def read_recipe(source: str, dialect: Dialect | None = None) -> Recipe:
    """Read a recipe: a file (TOML by its suffix, else plain text), the name of a shipped one, or its text itself.

    dialect:  how the rules are written; default: what a TOML file says, or else quanttool's form

    Raises UsageError if there is no such file, RecipeError if it cannot be read.
    """
    path = Path(source)
    if _is_file(path):
        return read_recipe_file(path, dialect)
    if "=" in source:
        return Recipe(tuple(parse_rules(source, dialect or "quanttool")), dialect=dialect or "quanttool")
    shipped = shipped_recipes()
    if source in shipped:
        return read_recipe_file(shipped[source], dialect)
    known = f"; shipped are {', '.join(shipped)}" if shipped else ""
    raise UsageError(f"{source}: no such recipe: neither a file nor REGEX=TYPE{known}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # text that no file can be called by
        return False


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with quanttool."""
    return {path.stem: path for path in sorted((data_folder("recipes") / "models").glob("*.toml"))}


def read_recipe_file(path: str | os.PathLike, dialect: Dialect | None = None) -> Recipe:
    """Read a recipe's file; see `read_recipe`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".toml":
            return _from_toml(text, dialect)
        return Recipe(tuple(parse_rules(text, dialect or "quanttool")), path.stem, dialect=dialect or "quanttool")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecipeError) as error:
        raise RecipeError(f"{path}: {error}") from None


def _from_toml(text: str, dialect: Dialect | None) -> Recipe:
    data = tomllib.loads(text)
    for key, value in data.items():
        if key not in _KEYS:
            raise RecipeError(f"unknown key {key!r}; known are {', '.join(sorted(_KEYS))}")
        if not isinstance(value, str):
            raise RecipeError(f"{key} is {value!r}, expected text")
    written = dialect or data.get("dialect", "quanttool")
    if written not in DIALECTS:
        raise RecipeError(f"unknown dialect {written!r}; known are {', '.join(DIALECTS)}")
    rules = tuple(parse_rules(data.get("rules", ""), written)) if data.get("rules", "").strip() else ()
    facts = {key: data.get(key, "").strip() for key in ("name", "author", "base", "notes")}
    return Recipe(rules, dialect=written, **facts)


def to_toml(recipe: Recipe) -> str:
    """The recipe as a TOML file, rules in quanttool's form. Raises RecipeError if a rule cannot be written so."""
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"  # a JSON string is a TOML string
        for key in ("name", "author", "base", "notes")
        if (value := getattr(recipe, key))
    ]
    rules = format_rules(recipe.rules, "quanttool")
    quotes = "'''"
    if quotes in rules:
        raise RecipeError("a pattern with ''' cannot stand in a TOML recipe; write it otherwise")
    return "\n".join([*lines, f"rules = {quotes}", rules, quotes]) + "\n"

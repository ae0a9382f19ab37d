"""Read recipes: YAML files that may extend another recipe, with overrides of single values."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from pretrain.recipe.config import Recipe


def find_recipe(name: Path) -> Path:
    """Return the path of a recipe: a file, or a bundled recipe by name.

    >>> find_recipe(Path("mini")).name
    'mini.yaml'
    """
    bundled = Path(__file__).parents[1] / "recipes" / f"{name}.yaml"
    return bundled if not name.is_file() and bundled.is_file() else name


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and override single values.

    A recipe may begin with `extends: NAME`: it inherits the values of that recipe (a file in the
    same folder, or a bundled one) that it does not set itself.

    Parameters
    ----------
    path
        YAML file.
    overrides
        `dotted.key=value` with a YAML value, as `optimisation.steps=100`.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not YAML, or a key or value is wrong; one line that names the key and, for an
        unknown key, the closest known one.
    """
    values = _read_values(path)
    for override in overrides:
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_error(error)}") from error


def _read_values(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read the values of a recipe, merged into those of the recipe that it extends."""
    if not path.is_file():
        raise FileNotFoundError(f"recipe {path} does not exist")
    if path in children:
        raise ValueError(f"{path} extends itself through {children[-1].name}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, got {type(values).__name__}")
    if base := values.pop("extends", ""):
        sibling = path.parent / str(base)
        found = sibling if sibling.is_file() else find_recipe(Path(str(base)))
        values = _merged(_read_values(found, (*children, path)), values)
    return values


def _merged(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        is_section = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if is_section else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"override {override!r} must be key=value, as optimisation.steps=100")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"override {override!r}: {section} is not a section")
    try:
        values[last] = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not YAML") from error


def _first_error(error: ValidationError) -> str:
    # A misspelt key often makes another one missing, so report unknown keys first.
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":  # raised by a validator
        return f"{key}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
    if first["type"] != "extra_forbidden":
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        return f"{key}: {first['msg']}{got}"
    known = _sibling_keys(first["loc"])
    near = get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def _sibling_keys(location: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the section of a location."""
    section: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        section = section.model_fields[part].annotation
        section = next(iter(get_args(section)), section)  # tuple[Source, ...] -> Source
    return sorted(section.model_fields)

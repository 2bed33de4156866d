"""Tables hold strings (`"grpo": "latentpad.algorithms.grpo:GRPO"`), resolved on use; a dotted path needs no line."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from latentpad.recipe.errors import RecipeError, unknown
from latentpad.recipe.explain import explain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latentpad.recipe.schema import Component


def resolve(what: str, name: str, table: Mapping[str, str]) -> Any:
    """The object behind a name of the table, or behind `package.module:object`.

    Raises:
        RecipeError: there is none.
    """
    path = table.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise RecipeError(f"{what}.name: {unknown(what, name, table)}; or a path 'package.module:Class'")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(f"{what}.name: cannot import {path!r} ({error})") from error


def _refuse_unknown(cls: Any, options: Mapping[str, Any], where: str, kind: str) -> None:
    """Every option must be a field, in dataclasses within the dataclass too: pydantic drops unknown ones there."""
    allowed = [f.name for f in fields(cls) if f.init]
    for key in options:
        if key not in allowed:
            raise RecipeError(f"{where}.{key}: {unknown(kind, key, allowed)}")
    nested = {key: value for key, value in options.items() if isinstance(value, dict)}
    types = get_type_hints(cls) if nested else {}
    for key, value in nested.items():
        if isinstance(types[key], type) and is_dataclass(types[key]):
            _refuse_unknown(types[key], value, f"{where}.{key}", "key")


def build(what: str, component: Component, table: Mapping[str, str]) -> Any:
    """The component: a dataclass made of the recipe's options, strictly typed.

    Raises:
        RecipeError: unknown name, unknown option or wrong type; the line says which and what is allowed.
    """
    cls = resolve(what, component.name, table)
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise RecipeError(f"{what}.name: got {component.name!r}; expected the path of a dataclass")
    _refuse_unknown(cls, component.options, what, f"key of {what} {component.name!r}")
    try:
        # As JSON, because pydantic's strict mode makes a dataclass of a JSON object but not of a dict.
        return TypeAdapter(cls).validate_json(json.dumps(component.options, default=str), strict=True)
    except ValidationError as error:
        line = explain(error, None, prefix=what)
        for mark in ".:":
            line = line.replace(f"{what}: {what}{mark}", f"{what}{mark}", 1)
        raise RecipeError(line) from error

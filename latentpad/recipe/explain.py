"""One line for a pydantic error: the key, what was got, what is allowed, and the nearest valid name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from latentpad.recipe.errors import nearest, unknown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


def explain(error: ValidationError, model: type[BaseModel] | None, *, prefix: str = "") -> str:
    """The first problem of a validation error, in one line.

    Args:
        error: from pydantic.
        model: the root model, to name the keys that are allowed; None if it is not a model.
        prefix: where the validated value stands in the file.
    """
    details = error.errors(include_url=False)
    first = details[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join([prefix, *path] if prefix else path) or "recipe"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}: {_message(first, model)}{more}"


def _message(detail: ErrorDetails, model: type[BaseModel] | None) -> str:
    kind, got = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        *parents, key = [str(part) for part in detail["loc"]]
        return unknown("key", key, _allowed_keys(model, parents))
    if kind == "missing":
        return "missing: this key is required"
    if kind == "literal_error":
        expected = str(detail.get("ctx", {}).get("expected", ""))
        names = [name.strip("' ") for name in expected.replace(" or ", ",").split(",")]
        return f"got {got!r}; {nearest(str(got), names)}allowed: {expected}"
    if kind == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    shown = repr(got)
    message = str(detail["msg"])
    return f"got {shown if len(shown) < 80 else shown[:77] + '...'}; {message[0].lower()}{message[1:]}"


def _allowed_keys(model: type[BaseModel] | None, parents: list[str]) -> list[str]:
    for parent in parents:
        if model is None:
            return []
        field = model.model_fields.get(parent)
        model = None if field is None else _model_in(field.annotation)
    return [] if model is None else [f.alias or name for name, f in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None

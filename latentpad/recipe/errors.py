"""How work ends other than well, each told in one line: bad input, a machine that cannot, a user who stops it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class RecipeError(ValueError):
    """Bad input (recipe, data, arguments): one line that says what, where and the fix. Exit code 2."""


class MachineError(RuntimeError):
    """The machine cannot do what is asked (no such device, package not installed). One line. Exit code 3."""


class Diverged(FloatingPointError):  # noqa: N818 (says what happened)
    """Training came to numbers that are not finite. One line; the fix is in the recipe. Exit code 2."""


class Stopped(Exception):  # noqa: N818 (not an error)
    """The user asked to stop, and a checkpoint was left. Exit code 130."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? ` if one of `allowed` is close to `name`, else nothing.

    >>> nearest("learning_rte", ["learning_rate", "steps"])
    "did you mean 'learning_rate'? "
    """
    match = get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"did you mean {match[0]!r}? " if match else ""


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """The line for a name that is not one of `allowed`."""
    names = sorted(allowed)
    return f"unknown {what} {name!r}; {nearest(name, names)}(allowed: {', '.join(names) or 'none'})"

"""An `assert` about a program, taken apart: what the program is asked for, and what is then true of its answer.

The program's process is asked for values only, by `Assertion.call`. Whether the assertion holds is decided elsewhere,
so nothing that the program does to `==`, to a type or to the interpreter can make it hold.
"""

from __future__ import annotations

import ast
import builtins
import copy
import math
import threading
import warnings
from dataclasses import dataclass
from typing import Any

from reward.literal import MAX_DEPTH

_BUILTINS = frozenset(dir(builtins))
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr)
_WARNINGS = threading.Lock()


class BadAssertion(ValueError):  # noqa: N818 (says what the text is)
    """The text is not an assertion that can be taken apart; why, for the data's author."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """One assertion.

    Attributes:
        names: the program's functions that it calls.
        call: a Python expression for the program's process: a tuple of the calls of the program's own functions.
        check: the assertion as source, with the names `value_0`, `value_1`... in the place of those calls.
        plain: whether it has the form `CALL == LITERAL`.
        expected: the literal of the plain form.
    """

    names: frozenset[str]
    call: str
    check: str
    plain: bool
    expected: Any


def parse_quietly(text: str) -> ast.Module:
    """The data's own source parsed, without a warning about its escapes. Raises `BadAssertion`."""
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadAssertion(f"{text[:60]!r} is not Python: {error}") from error


def names_bound_by(setup: str) -> frozenset[str]:
    """The names that a piece of source imports, defines or assigns at its top level. Raises `BadAssertion`."""
    found: set[str] = set()
    for statement in parse_quietly(setup).body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(statement.name)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.alias):
                found.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return frozenset(found)


def parse_assertion(text: str, *, known: frozenset[str], entry: str = "") -> Assertion:
    """Take one `assert` statement apart.

    The program's functions are those called by a plain name that is no builtin and not in `known`; or `entry` alone. Of
    a class, which begins with a capital, the method that is called on the new object belongs to the call:
    `Solution().f(x)`. A call inside a comprehension or lambda is refused: it needs names that only live there.

    Raises:
        BadAssertion: if it is not one assertion, or asks nothing of the program.

    >>> parse_assertion("assert sorted(f(3)) == [1, 2]", known=frozenset()).check
    'assert sorted(value_0) == [1, 2]'
    """
    body = parse_quietly(text).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise BadAssertion(f"{text[:60]!r} is not one assert statement")
    test = copy.deepcopy(body[0].test)
    replacer = _Replacer(known, entry)
    outside = replacer.visit(copy.deepcopy(test))
    if replacer.hidden:
        raise BadAssertion(
            f"{text[:60]!r} calls {replacer.hidden!r} where only a comprehension or lambda knows its names"
        )
    if not replacer.calls:
        raise BadAssertion(f"{text[:60]!r} calls {entry or 'no function of the program'}")
    call = "(" + ", ".join(map(ast.unparse, replacer.calls)) + ",)"
    check = ast.unparse(ast.Assert(outside, None))
    literal = _literal_beside(outside)
    return Assertion(frozenset(replacer.names), call, check, literal is not None, literal[0] if literal else None)


class _Replacer(ast.NodeTransformer):
    """Puts `value_0`, `value_1`... in the place of the calls of the program's functions, outermost first."""

    def __init__(self, known: frozenset[str], entry: str) -> None:
        self._known, self._entry = known | (_BUILTINS - {entry}), entry
        self.calls: list[ast.expr] = []
        self.names: set[str] = set()
        self.hidden = ""
        self._scopes = 0

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, _SCOPES):
            self._scopes += 1
            self.generic_visit(node)
            self._scopes -= 1
            return node
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = self._own_name(node)
        if not name:
            self.generic_visit(node)
            return node
        if self._scopes:
            self.hidden = name
            return node
        self.names.add(name)
        self.calls.append(node)
        return ast.Name(f"value_{len(self.calls) - 1}", ast.Load())

    def _own_name(self, node: ast.expr) -> str:
        """The name of the program's function that this very node calls, or nothing."""
        if not isinstance(node, ast.Call):
            return ""
        if isinstance(node.func, ast.Name):
            name = node.func.id
            return name if (name == self._entry if self._entry else name not in self._known) else ""
        if isinstance(node.func, ast.Attribute):
            made = node.func.value
            name = self._own_name(made) if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) else ""
            return name if name[:1].isupper() else ""
        return ""


def _literal_beside(test: ast.expr) -> tuple[Any] | None:
    """The literal of `value_0 == LITERAL` or `LITERAL == value_0`, in a tuple of one; None for any other form."""
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        return None
    sides = (test.left, test.comparators[0])
    for value, other in (sides, sides[::-1]):
        if isinstance(value, ast.Name) and value.id == "value_0":
            try:
                return (ast.literal_eval(other),)  # the data's own text, parsed when the data was loaded
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                return None
    return None


def spell(value: Any) -> str:
    """A plain value as Python source in ASCII: `repr`, but for what `repr` cannot spell. Raises `ValueError`.

    >>> spell([float("inf"), {1: "é"}])
    "[float('inf'), {1: '\\\\xe9'}]"
    """
    return _spell(value, 0)


def _spell(value: Any, depth: int) -> str:
    if depth > 2 * MAX_DEPTH:
        raise ValueError("too deep")
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, complex):
        return f"complex({_spell(value.real, depth)}, {_spell(value.imag, depth)})"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 1 << 1000 else hex(value)
    if isinstance(value, dict):
        pairs = [f"{_spell(k, depth + 1)}: {_spell(v, depth + 1)}" for k, v in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if not isinstance(value, list | tuple | set | frozenset):
        return ascii(value)
    items = ", ".join(_spell(item, depth + 1) for item in value)
    if isinstance(value, list):
        return f"[{items}]"
    if isinstance(value, tuple):
        return f"({items},)" if value else "()"
    return f"{type(value).__name__}([{items}])"

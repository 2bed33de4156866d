"""What a program executes, told by the program itself: its syntax tree rewritten so that every statement reports first.

A second route to what `tracer` finds, with no tracing hook and a spelling of values of its own; the two share no code.
This file is a script too: its text runs whole in the sandbox, and it sees no other file.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

STEP, TURN = "__step__", "__turn__"
LITTLE, DEEP = ("null", "true", "false"), 40
BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), dict: ("{", "}")}


class Enough(BaseException):
    """More characters than were asked for."""


class Rewriter:
    """Puts a report before every statement that is a line's first, and before each turn of a loop."""

    def rewrite(self, tree: ast.Module) -> ast.Module:
        """The same program, reporting."""
        tree.body = self._block(tree.body, header=0)
        return ast.fix_missing_locations(tree)

    def _block(self, block: list[ast.stmt], header: int) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in block:
            silent = isinstance(statement, ast.Global | ast.Nonlocal) or statement.lineno == header
            header = statement.end_lineno or statement.lineno
            if not silent and not isinstance(statement, ast.While):
                found.append(ast.Expr(report(statement.lineno)))
            self._inside(statement)
            found.append(statement)
        return found

    def _inside(self, statement: ast.stmt) -> None:
        line = statement.lineno
        if isinstance(statement, ast.FunctionDef):
            document = isinstance(statement.body[0], ast.Expr) and ast.get_docstring(statement) is not None
            kept = statement.body[:1] if document else []
            statement.body = kept + self._block(statement.body[len(kept) :], line)
            return
        if isinstance(statement, ast.While):
            statement.test = ast.BoolOp(ast.Or(), [report(line), statement.test])
        if isinstance(statement, ast.For):
            name = ast.Name(TURN, ast.Load())
            statement.iter = ast.Call(name, [ast.Constant(line), statement.iter], [])
        for handler in getattr(statement, "handlers", []):
            if handler.type is None:
                handler.body = [ast.Expr(report(handler.lineno)), *self._block(handler.body, handler.lineno)]
            else:
                handler.type = ast.BoolOp(ast.Or(), [report(handler.lineno), handler.type])
                handler.body = self._block(handler.body, handler.lineno)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(statement, field, None)
            if block:
                setattr(statement, field, self._block(block, line))


def report(line: int) -> ast.expr:
    """A call that reports and gives None."""
    return ast.Call(ast.Name(STEP, ast.Load()), [ast.Constant(line)], [])


class Log:
    """The lines as they are reported, with the state that the next report finds, and if that is of another frame."""

    def __init__(self, most: int) -> None:
        self.lines: list[int] = []
        self.states: list[dict[str, str]] = []
        self.moves: list[bool] = []
        self._frames: list[types.FrameType] = []
        self._most = most

    def step(self, line: int) -> None:
        """The frame that calls is about to execute the line."""
        self._look(sys._getframe(1), line)

    def turn(self, line: int, items: Iterable[Any]) -> Iterator[Any]:
        """The items; at every turn but the first, whose statement has reported, the line is reported first."""
        source = iter(items)
        for item in source:
            yield item
            self._look(sys._getframe(1), line)

    def _look(self, frame: types.FrameType, line: int) -> None:
        self._note(frame.f_locals, moved=frame is not self._frames[-1] if self._frames else False)
        self._frames = [*self._frames[:1], frame]  # the module's, and the latest
        self.lines.append(line)

    def end(self, variables: dict[str, Any]) -> None:
        """The module has these variables, and nothing follows."""
        self._note(variables, moved=self._frames[0] is not self._frames[-1])

    def _note(self, variables: dict[str, Any], *, moved: bool) -> None:
        state = {key: written(variables[key]) for key in variables if not (key[:2] == "__" == key[-2:])}
        self._most -= len(str(state))
        if self._most < 0:
            raise Enough
        self.states.append(state)
        self.moves.append(moved)


def written(value: Any, level: int = 0) -> str:
    """A value's text: see the rules in `traces`."""
    if level > DEEP:
        raise Enough
    match value:
        case None | True | False:
            return LITTLE[[None, True, False].index(value)]
        case str() if type(value) is str:
            return json.dumps(value, ensure_ascii=False)
        case int() | complex() | bytes() if type(value) in (int, complex, bytes):
            return f"{value!r}"
        case float() if type(value) is float:
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), str(value))
        case dict():
            inside = ", ".join(f"{written(k, level + 1)}: {written(v, level + 1)}" for k, v in value.items())
            return bracketed(value, dict, inside)
        case set() | frozenset():
            return bracketed(value, set, ", ".join(sorted_texts(value, level + 1)))
        case list() | tuple() | deque():
            inside = ", ".join([written(item, level + 1) for item in value])
            plain = tuple if type(value) is tuple else list
            return bracketed(value, plain, inside + "," * (type(value) is tuple and len(value) == 1))
        case _:
            return json.dumps(described(value))


def bracketed(value: Any, plain: type, inside: str) -> str:
    """In brackets, behind the type's name unless the brackets tell the type."""
    name, (left, right) = type(value).__name__, BRACKETS[plain]
    if type(value) is set and not value:
        return "set()"
    if type(value) is plain:
        return f"{left}{inside}{right}"
    return f"{name}({left}{inside}{right})" if value else f"{name}()"


def sorted_texts(value: Any, level: int) -> list[str]:
    """The members of a set: numbers by size, text by the alphabet, anything else by its spelling."""
    members = list(value)
    numbers = all(type(member) is int or type(member) is float for member in members)
    if numbers or all(type(member) is str for member in members):
        members.sort()
        return [written(member, level) for member in members]
    return sorted(written(member, level) for member in members)


def described(value: Any) -> str:
    """Modules and what can be called by name, other things by kind."""
    if isinstance(value, types.ModuleType):
        return f"<module {value.__name__}>"
    kind = type(value).__name__
    return f"<callable_object {getattr(value, '__name__', kind)}>" if callable(value) else f"<{kind} object>"


def simple(value: Any) -> Any:
    """Data of plain types; kinds of dictionaries, lists and so on become what they are kinds of."""
    match value:
        case dict():
            return dict(zip(map(simple, value), map(simple, value.values()), strict=True))
        case tuple():
            return tuple(map(simple, value))
        case list():
            return [*map(simple, value)]
        case frozenset():
            return frozenset(map(simple, value))
        case set():
            return set(map(simple, value))
        case _:
            return value


def main() -> tuple[str, list[tuple[int, dict[str, str], bool]], Any]:
    """How it ended (`ok` or why not); each executed line, its state, and if that is another frame's; `output`.

    The request is JSON on stdin: `{"program": ..., "seed": ..., "max_characters": ...}`.
    """
    request = json.loads(sys.stdin.read())
    log = Log(request["max_characters"])
    program = compile(Rewriter().rewrite(ast.parse(request["program"])), "<stepped>", "exec", dont_inherit=True)
    variables: dict[str, Any] = {"__name__": "__main__", STEP: log.step, TURN: log.turn}
    random.seed(request["seed"])
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(program, variables)  # noqa: S102 (in the sandbox)
        log.end(variables)
    except BaseException as error:  # noqa: BLE001 (every exception is the program's)
        return f"{type(error).__name__}: {error}"[:200], [], None
    return "ok", list(zip(log.lines, log.states[1:], log.moves[1:], strict=True)), simple(variables.get("output"))

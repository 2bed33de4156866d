"""Traces one program with the interpreter's own hook. This file is a script: its text runs whole in the sandbox.

Standard library only, and nothing of ours, for the sandbox sees no other file. `execution` sends it there.
"""

from __future__ import annotations

import ast
import io
import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType, ModuleType
from typing import Any, NoReturn

FILE = "<traced>"
# Their frames belong to the line that they stand in (and some interpreters make none for comprehensions).
EXPRESSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>"})
OPTIMIZED, GENERATOR = 0x1, 0x20  # as in `inspect`: a function of any kind, a generator
DEEPEST = 30


class Stop(BaseException):
    """Over the cap. No `Exception`, so that few programs swallow it; those that do are found out in the end."""


@dataclass
class Step:
    """One executed line: its number, and what is true after it.

    Attributes:
        state: the variables of the frame that goes on, their values as text.
        moved: that is another frame than the line's own.
        written: the integers that have just been set there.
    """

    line: int
    state: dict[str, str] = field(default_factory=dict)
    moved: bool = False
    written: tuple[tuple[str, int], ...] = ()


def first_lines(source: str) -> dict[int, int]:
    """For every line of a statement that takes several (of a compound one, its header): the first of them."""
    first: dict[int, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = (node.end_lineno or node.lineno) if not body else max(node.lineno, body[0].lineno - 1)
            for line in range(node.lineno + 1, end + 1):
                # A decorator's line or the comment above a body is nobody's header: it is never executed as such.
                first[line] = max(node.lineno, first.get(line, 0))
    return first


def comprehensions(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where each begins and ends. From Python 3.12 on they have no frame, and each of their turns is a line event."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in found]


class Tracer:
    """Collects steps. The state after a line is that of the frame which goes on: the callee's, the caller's, its own.

    Args:
        source: the program.
        override: at the end of this step (from 0) the variable is set to the value; then the program goes on.
        max_characters: with more than that, the trace is given up.
    """

    def __init__(self, source: str, override: tuple[int, str, int] | None, max_characters: int) -> None:
        self._first = first_lines(source)
        self._comprehensions = comprehensions(source)
        self._lines = source.split("\n")
        self._override = override
        self._left = max_characters
        self._module: FrameType | None = None
        self._frame: FrameType | None = None
        self.steps: list[Step] = []
        self.over = False

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        """For `sys.settrace`: the hook of each frame of the program's own functions, modules and classes."""
        if self.over or frame.f_code.co_filename != FILE or frame.f_code.co_name in EXPRESSIONS:
            return None
        code = frame.f_code
        known: dict[str, str] | None = None if code.co_flags & GENERATOR else {}
        # A class's body begins with the line of `class` once more.
        in_class = not code.co_flags & OPTIMIZED and code.co_name != "<module>"
        last = code.co_firstlineno if in_class else 0

        def hook(frame: FrameType, event: str, _: object) -> Any:
            nonlocal known, last
            if event != "line":
                return hook
            line = self._first.get(frame.f_lineno, frame.f_lineno)
            # The same line again is another turn of a loop, but not if it is one of several of a statement.
            if line == last and (in_class or self._first.get(line + 1) == line or self._in_comprehension(frame)):
                return hook
            known = self.finish(frame, frame.f_locals, known)
            last = line
            self.begin(line, frame)
            return hook

        return hook

    def _in_comprehension(self, frame: FrameType) -> bool:
        """Whether the instruction that comes next belongs to one."""
        line, _, column, _ = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
        return any(begin <= (line or 0, column or 0) < end for begin, end in self._comprehensions)

    def begin(self, line: int, frame: FrameType) -> None:
        """A line of this frame starts."""
        self._module = self._module or frame
        self._frame = frame
        self.steps.append(Step(line))
        self._left -= len(self._lines[line - 1]) + len("line: \nstate: \n")

    def finish(self, frame: FrameType | None, variables: Any, known: dict[str, str] | None) -> dict[str, str]:
        """The line before has ended: keep what the frame that goes on looks like now.

        Args:
            frame: that frame; None in the end, for the module's.
            variables: the frame's own.
            known: what they were when this frame last went on; None if that is not known.

        Returns:
            their texts.
        """
        if self._override is not None and self.steps and len(self.steps) - 1 == self._override[0]:
            variables[self._override[1]] = self._override[2]
        try:
            found = {name: spell(value, self._left) for name, value in variables.items() if not is_hidden(name)}
        except (ValueError, RecursionError):  # too long, too deep, or an integer of more digits than Python spells
            self._give_up()
        self._left -= sum(len(name) + len(text) + len('"": , ') for name, text in found.items())
        if self._left < 0:
            self._give_up()
        if self.steps:
            step = self.steps[-1]
            step.state, step.moved = found, self._frame is not (frame or self._module)
            if known is not None:
                changed = [name for name, text in found.items() if known.get(name) != text]
                step.written = tuple((n, variables[n]) for n in changed if type(variables[n]) is int)
        return found

    def _give_up(self) -> NoReturn:
        self.over = True
        sys.settrace(None)
        raise Stop


def is_hidden(name: str) -> bool:
    """Names that Python itself puts into modules and classes."""
    return name.startswith("__") and name.endswith("__")


def spell(value: Any, room: int, depth: int = 0) -> str:
    """JSON where JSON has it; tuples, sets, bytes and so on as Python spells them; objects by kind or name.

    Sets stand sorted: numbers and text by value, others by their spelling. Raises `ValueError` beyond `room`.
    """
    kind = type(value)
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is float:
        return json.dumps(value)
    if kind in (int, complex, bytes):
        return repr(value)
    if kind is str:
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (list, tuple, set, frozenset, dict, deque)):
        return json.dumps(name_of(value))
    if len(value) > room or depth > DEEPEST:
        raise ValueError("too long")
    inner = spell_items(value, room, depth + 1)
    if kind in (list, dict):
        return f"[{inner}]" if kind is list else f"{{{inner}}}"
    if kind is tuple:
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if kind is set and value:
        return f"{{{inner}}}"
    if not value:
        return f"{kind.__name__}()"
    opening, closing = "{}" if isinstance(value, (set, frozenset, dict)) else "[]"
    return f"{kind.__name__}({opening}{inner}{closing})"


def spell_items(value: Any, room: int, depth: int) -> str:
    """What stands between the brackets."""
    texts: list[str] = []
    for item in in_order(value):
        text = spell(item, room, depth)
        if isinstance(value, dict):
            text += f": {spell(value[item], room, depth)}"
        room -= len(text)
        if room < 0:
            raise ValueError("too long")
        texts.append(text)
    return ", ".join(texts)


def in_order(value: Any) -> Iterator[Any]:
    """The members in their order; those of sets, which have none, sorted."""
    if not isinstance(value, (set, frozenset)):
        return iter(value)
    kinds = set(map(type, value))
    if kinds <= {int, float} or kinds == {str}:
        return iter(sorted(value))
    return iter(sorted(value, key=lambda item: spell(item, 10**6)))


def name_of(value: Any) -> str:
    """Something that is no data."""
    if isinstance(value, ModuleType):
        return f"<module {value.__name__}>"
    if callable(value):
        return f"<callable_object {getattr(value, '__name__', type(value).__name__)}>"
    return f"<{type(value).__name__} object>"


def plain(value: Any, depth: int = 0) -> Any:
    """The same of plain types alone: a `Counter` as the dict that it equals. Raises `ValueError` for other things."""
    if value is None or type(value) in (bool, float, complex, str, bytes, int):
        return value
    if depth > DEEPEST:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(plain(item, depth + 1) for item in value)
    raise ValueError(name_of(value))


def main() -> tuple[str, list[tuple[int, dict[str, str], bool, tuple[tuple[str, int], ...]]], Any]:
    """How it ended (`ok`, or why there is no trace), the steps, and the value of `output`.

    The request is JSON on stdin: `{"program": ..., "test": ..., "override": ..., "max_characters": ...}`; `test` is
    an expression that holds in the end, or empty.
    """
    request = json.loads(sys.stdin.read())
    override = request["override"] and tuple(request["override"])
    tracer = Tracer(request["program"], override, request["max_characters"])
    code = compile(request["program"], FILE, "exec", dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    sys.stdin, shown, sys.stdout = io.StringIO(), sys.stdout, io.StringIO()
    try:
        sys.settrace(tracer)
        exec(code, namespace)  # noqa: S102 (in the sandbox)
        sys.settrace(None)
        tracer.finish(None, namespace, None)
        value = plain(namespace["output"])
        if not tracer.over and request["test"] and not eval(request["test"], namespace):  # noqa: S307 (in the sandbox)
            return "the test does not hold", [], None
    except BaseException as error:  # noqa: BLE001 (every exception is the program's)
        if not tracer.over:
            return "no plain value" if code_ended(error) else "an exception", [], None
    finally:
        sys.settrace(None)
        sys.stdout = shown
    if tracer.over:
        return "too many characters", [], None
    return "ok", [(step.line, step.state, step.moved, step.written) for step in tracer.steps], value


def code_ended(error: BaseException) -> bool:
    """Whether the error came after the program, from this file."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == FILE:
            return False
        frame = frame.tb_next
    return True

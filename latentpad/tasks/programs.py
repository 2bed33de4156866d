"""Small random programs after Bieber et al. 2020 (IPA-GNN) as Nye et al. 2021 used them: drawn, and run line by line.

One variable is added to, subtracted from or multiplied; `while` loops count down a variable of their own; `if`/`else`
compares. Weights of the statements are those of Bieber's generator; `break` and `continue`, which Nye does not mention,
are left out. Constants go from 0 to 2, as in Nye; those that are added, subtracted or compared with may go further.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

# Weights of arithmetic, while, if, if-else, and the lines that the shortest of each takes.
_KINDS = {"arithmetic": (15, 1), "while": (5, 4), "if": (5, 2), "if-else": (5, 4)}
_MAX_LOOPS, _MAX_DEPTH = 2, 2
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CHANGE: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_STATEMENT = re.compile(
    r"(?P<set>\w+) ?= ?(?P<value>-?\d+)|(?P<name>\w+) ?(?P<change>[-+*])= ?(?P<by>\d+)"
    r"|(?P<head>while|if) (?P<left>\w+) ?(?P<compare><=|>=|<|>) ?(?P<right>\d+):|(?P<else>else):"
)


class ProgramError(ValueError):
    """This text is not one of our programs, or it leaves the bounds. One line."""


@dataclass(frozen=True, slots=True)
class Step:
    """One executed line, indentation kept, and the variables after it in the order in which they were first set."""

    line: str
    state: dict[str, int]


@dataclass(frozen=True, slots=True)
class Style:
    """How programs are spelled: the names of the variable and the loop counters, spaces, indentation, constants."""

    variable: str
    counters: tuple[str, ...]
    spaced: bool
    indent: str
    max_constant: int = 2

    def line(self, depth: int, *words: str) -> str:
        """Words with spaces between them or not; keywords always keep theirs."""
        if words[0] in ("if", "while"):
            return f"{self.indent * depth}{words[0]} {self._join(words[1:])}:"
        return f"{self.indent * depth}{self._join(words)}"

    def _join(self, words: Sequence[str]) -> str:
        return (" " if self.spaced else "").join(words)


def draw_body(rng: Random, lines: int, style: Style) -> list[str]:
    """The lines of a random program, about `lines` of them, without the first that sets the variable."""
    counters = list(style.counters)
    if len(counters) > _MAX_LOOPS:
        counters = rng.sample(counters, _MAX_LOOPS)
    return _block(rng, lines, 0, style, counters)


def _block(rng: Random, lines: int, depth: int, style: Style, counters: list[str]) -> list[str]:
    body: list[str] = []
    while len(body) < lines:
        room = lines - len(body)
        kinds = [k for k, (_, least) in _KINDS.items() if least <= room and (depth < _MAX_DEPTH or least == 1)]
        kinds = [k for k in kinds if k != "while" or counters]
        kind = rng.choices(kinds, [_KINDS[k][0] for k in kinds])[0]
        body += _statement(rng, kind, room, depth, style, counters)
    return body


def _statement(rng: Random, kind: str, room: int, depth: int, style: Style, counters: list[str]) -> list[str]:
    name = style.variable
    if kind == "arithmetic":
        sign = rng.choice("+-*")
        return [style.line(depth, name, f"{sign}=", str(rng.randint(0, 2 if sign == "*" else style.max_constant)))]
    if kind == "while":
        counter = counters.pop(0)
        inside = rng.randint(1, room - 3)
        return [
            style.line(depth, counter, "=", str(rng.randint(1, 2))),
            style.line(depth, "while", counter, ">", "0"),
            style.line(depth + 1, counter, "-=", "1"),
            *_block(rng, inside, depth + 1, style, counters),
        ]
    head = style.line(depth, "if", name, rng.choice(sorted(_COMPARE)), str(rng.randint(0, style.max_constant)))
    if kind == "if":
        return [head, *_block(rng, rng.randint(1, room - 1), depth + 1, style, counters)]
    first = rng.randint(1, room - 3)
    other = rng.randint(1, room - 2 - first)
    return [
        head,
        *_block(rng, first, depth + 1, style, counters),
        f"{style.indent * depth}else:",
        *_block(rng, other, depth + 1, style, counters),
    ]


def run(
    lines: Sequence[str],
    state: dict[str, int],
    *,
    max_value: int,
    max_steps: int = 200,
    change: tuple[int, int] = (0, 0),
) -> list[Step]:
    """Execute lines one by one.

    Args:
        lines: statements of the grammar, indented evenly.
        state: variables before the first line; not changed.
        max_value: the largest absolute value that a variable may take.
        max_steps: how many lines may be executed.
        change: a step's number from 1, and what is added to the variable that it has just set.

    Raises:
        ProgramError: a line is not of the grammar, an unset variable is used, or a bound is passed.
    """
    machine = _Machine(dict(state), max_value, max_steps, change)
    machine.block([(len(line) - len(line.lstrip(" ")), line) for line in lines])
    return machine.steps


def written(step: Step) -> str | None:
    """The variable that a step has set, or None for `while` and `if`."""
    statement = _STATEMENT.fullmatch(step.line.strip())
    return None if statement is None else statement["set"] or statement["name"]


class _Machine:
    """Variables, and the lines executed so far."""

    def __init__(self, state: dict[str, int], max_value: int, max_steps: int, change: tuple[int, int]) -> None:
        self.state, self.steps = state, list[Step]()
        self._max_value, self._max_steps, self._change = max_value, max_steps, change

    def block(self, lines: Sequence[tuple[int, str]]) -> None:
        """Execute lines of one indentation, with what is indented below them."""
        place = 0
        while place < len(lines):
            indent, line = lines[place]
            end = _end_of_block(lines, place)
            statement = _STATEMENT.fullmatch(line.strip())
            if statement is None or (statement["head"] is None) != (end == place + 1):
                raise ProgramError(f"{line.strip()[:60]!r} is not a statement of these programs")
            body, other = lines[place + 1 : end], lines[:0]
            if statement["head"] == "if" and end < len(lines) and lines[end] == (indent, " " * indent + "else:"):
                other, end = lines[end + 1 : _end_of_block(lines, end)], _end_of_block(lines, end)
            entered = self._execute(statement, line)
            if statement["head"] is not None:
                self.block(body if entered else other)
            if not (entered and statement["head"] == "while"):
                place = end

    def _execute(self, statement: re.Match[str], line: str) -> bool:
        """One line; whether the body of a `while` or `if` is entered."""
        entered, state = False, self.state
        changed = self._change[1] if len(self.steps) + 1 == self._change[0] else 0
        name = statement["set"] or statement["name"]
        try:
            if statement["set"] is not None:
                state[name] = int(statement["value"]) + changed
            elif statement["name"] is not None:
                state[name] = _CHANGE[statement["change"]](state[name], int(statement["by"])) + changed
            elif statement["head"] is not None:
                entered = _COMPARE[statement["compare"]](state[statement["left"]], int(statement["right"]))
            else:
                raise ProgramError("'else:' without an 'if'")
        except KeyError as error:
            raise ProgramError(f"{line.strip()!r} uses {error} before it is set") from error
        if name is not None and abs(state[name]) > self._max_value:
            raise ProgramError(f"{line.strip()!r} makes {state[name]}, beyond {self._max_value}")
        self.steps.append(Step(line, dict(state)))
        if len(self.steps) > self._max_steps:
            raise ProgramError(f"executes more than {self._max_steps} lines")
        return entered


def _end_of_block(lines: Sequence[tuple[int, str]], head: int) -> int:
    """The place after the lines that are indented deeper than the one at `head`."""
    end = head + 1
    while end < len(lines) and lines[end][0] > lines[head][0]:
        end += 1
    return end

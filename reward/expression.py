"""Countdown: an arithmetic expression over given numbers that reaches a target. Parsed and computed here, never run."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from reward.compare import parse_json
from reward.literal import NotLiteral
from reward.types import BadOptions, GoldAnswerError, Outcome, Reward

MAX_CHARS = 1000
MAX_DEPTH = 50
MAX_DIGITS = 12
_TOKEN = re.compile(r" *(?:(?P<number>0|[1-9][0-9]*)(?![0-9])|(?P<mark>[-+*/()])) *")


class _NotExpression(ValueError):  # noqa: N818 (says what the text is)
    """The text is not an expression in the spelling that `grade_expression` states."""


def parse_expression(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression and the numbers in it, from left to right.

    Whole numbers without a sign or leading zeros, `+ - * /`, parentheses and spaces; `*` and `/` bind tighter, and all
    four associate to the left. Division is exact. A sign in front of a number or a parenthesis is refused, for it is
    not one of the four operations; so are `**`, `//`, `^`, `=`, `x`, other scripts' signs and digits, decimals, and
    products without `*`. At most `MAX_CHARS` characters, `MAX_DEPTH` nested parentheses, `MAX_DIGITS` digits a number.

    Raises:
        _NotExpression: if the text is anything else (a `ValueError`).
        ZeroDivisionError: if it divides by zero.

    >>> parse_expression("(1+4)*6/2")
    (Fraction(15, 1), [1, 4, 6, 2])
    """
    if len(text) > MAX_CHARS:
        raise _NotExpression(f"longer than {MAX_CHARS} characters")
    parser = _Parser(_tokens(text))
    value = parser.sum(0)
    if parser.next is not None:
        raise _NotExpression(f"unexpected {parser.next!r}")
    return value, parser.numbers


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(match["number"] or "") > MAX_DIGITS:
            raise _NotExpression(f"unexpected {text[place : place + 20]!r}")
        tokens.append(match["number"] or match["mark"])
        place = match.end()
    return tokens


class _Parser:
    """Recursive descent, one token ahead; computes while it reads."""

    def __init__(self, tokens: list[str]) -> None:
        self._rest = list(reversed(tokens))
        self.numbers: list[int] = []

    @property
    def next(self) -> str | None:
        return self._rest[-1] if self._rest else None

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.next in ("+", "-"):
            plus = self._rest.pop() == "+"
            term = self._product(depth)
            value = value + term if plus else value - term
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self.next in ("*", "/"):
            times = self._rest.pop() == "*"
            factor = self._factor(depth)
            value = value * factor if times else value / factor
        return value

    def _factor(self, depth: int) -> Fraction:
        token = self._rest.pop() if self._rest else "the end"
        if token == "(":
            if depth == MAX_DEPTH:
                raise _NotExpression(f"more than {MAX_DEPTH} parentheses deep")
            value = self.sum(depth + 1)
            if not self._rest or self._rest.pop() != ")":
                raise _NotExpression("a parenthesis does not close")
            return value
        if not token[0].isdigit():
            raise _NotExpression(f"unexpected {token!r}")
        self.numbers.append(int(token))
        return Fraction(int(token))


def check_options(*, use: str = "all") -> None:
    """Raise `BadOptions` unless `use` is known."""
    if use not in ("all", "any"):
        raise BadOptions(f"grader 'expression': option use is {use!r}; expected 'all' or 'any'")


def _read_gold(gold: str) -> tuple[int, list[int]]:
    try:
        value = parse_json(gold)
    except NotLiteral as error:
        raise GoldAnswerError.of(gold, f"is not JSON: {error}") from error
    if not isinstance(value, dict) or set(value) != {"target", "numbers"}:
        raise GoldAnswerError.of(gold, 'is not {"target": ..., "numbers": [...]}')
    target, numbers = value["target"], value["numbers"]
    if type(target) is not int or not isinstance(numbers, list) or not numbers:
        raise GoldAnswerError.of(gold, "needs a whole number as target and a list of numbers")
    if not all(type(n) is int and 0 <= n < 10**MAX_DIGITS for n in numbers):
        raise GoldAnswerError.of(gold, f"needs whole numbers of 0 or more and at most {MAX_DIGITS} digits")
    return target, numbers


def check_gold(gold: str, *, use: str = "all") -> None:
    """Raise `GoldAnswerError` unless `gold` states a puzzle. Whether the puzzle has a solution is not looked into."""
    _read_gold(gold)


def grade_expression(answer: str, gold: str, *, use: str = "all") -> Reward:
    """CORRECT if the expression reaches the target exactly, with the given numbers and no others.

    Args:
        answer: the expression and nothing else; see `parse_expression`.
        gold: JSON: `{"target": 24, "numbers": [4, 6, 1, 1]}`.
        use: `all`: every given number is used exactly as often as it is given; `any`: at most as often.

    Raises:
        GoldAnswerError: if `gold` does not state a puzzle.

    >>> grade_expression("4*6*1/1", '{"target": 24, "numbers": [4, 6, 1, 1]}').outcome
    <Outcome.CORRECT: 'CORRECT'>
    """
    target, given = _read_gold(gold)
    try:
        value, used = parse_expression(answer)
    except _NotExpression as error:
        return Reward.of(Outcome.UNPARSEABLE, f"{answer[:80]!r} is not an expression: {error}")
    except ZeroDivisionError:
        return Reward.of(Outcome.WRONG, "division by zero")
    over = Counter(used) - Counter(given)
    left = Counter(given) - Counter(used)
    if over:
        return Reward.of(Outcome.WRONG, f"{min(over)} is used more often than it is given")
    if use == "all" and left:
        return Reward.of(Outcome.WRONG, f"{min(left)} is not used as often as it is given")
    if value != target:
        return Reward.of(Outcome.WRONG, f"the value is {str(value)[:40]}")
    return Reward.of(Outcome.CORRECT)

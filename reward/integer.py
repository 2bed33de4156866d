"""Exact integer arithmetic: is this the same whole number?"""

from __future__ import annotations

import re

from reward.types import GoldAnswerError, Outcome, Reward

MAX_DIGITS = 4000
_PLAIN = re.compile(r"[+-]?[0-9]+")
_SPACED = re.compile(r"(?:[+-] ?)?[0-9](?: [0-9])*")


def parse_integer(text: str, *, spaced_digits: bool = False) -> int | None:
    """The whole number that `text` spells, or None.

    ASCII digits with at most one sign; leading zeros are allowed (`007` is 7). No separators, exponents, points or
    other scripts' digits, and at most `MAX_DIGITS` digits, so that a number can never cost more than a moment.

    Args:
        text: the number and nothing else.
        spaced_digits: the digits are separated by exactly one space each (`4 9 5`), the spelling of Nye et al. 2021.

    >>> parse_integer("-12"), parse_integer("1 2"), parse_integer("1 2", spaced_digits=True), parse_integer("1e3")
    (-12, None, 12, None)
    """
    if len(text) > 2 * MAX_DIGITS + 2 or not (_SPACED if spaced_digits else _PLAIN).fullmatch(text):
        return None
    digits = text.replace(" ", "")
    return int(digits) if len(digits.lstrip("+-")) <= MAX_DIGITS else None


def check_gold(gold: str, *, spaced_digits: bool = False) -> None:
    """Raise `GoldAnswerError` unless the data's own answer can be graded."""
    if parse_integer(gold, spaced_digits=spaced_digits) is None:
        raise GoldAnswerError(f"gold answer {gold[:80]!r} is not an integer in the spelling that the task states")


def grade_integer(answer: str, gold: str, *, spaced_digits: bool = False) -> Reward:
    """CORRECT if both spell the same integer. Raises `GoldAnswerError` if `gold` does not spell one."""
    check_gold(gold, spaced_digits=spaced_digits)
    value = parse_integer(answer, spaced_digits=spaced_digits)
    if value is None:
        return Reward.of(Outcome.UNPARSEABLE, f"{answer[:80]!r} is not an integer")
    return Reward.of(Outcome.CORRECT if value == parse_integer(gold, spaced_digits=spaced_digits) else Outcome.WRONG)

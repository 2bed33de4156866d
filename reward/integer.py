"""Exact integer arithmetic: is this the same whole number?"""

from __future__ import annotations

import re

from reward.types import BadOptions, GoldAnswerError, Outcome, Reward

MAX_DIGITS = 4000
_PLAIN = re.compile(r"[+-]?[0-9]+")
_SPACED = re.compile(r"(?:[+-] ?)?[0-9](?: [0-9])*")
_THOUSANDS = re.compile(r"[+-]?(?:[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)")


def parse_integer(text: str, *, spaced_digits: bool = False, thousands: bool = False) -> int | None:
    """The whole number that `text` spells, or None.

    ASCII digits with at most one sign; leading zeros are allowed (`007` is 7). No separators, exponents, points or
    other scripts' digits, and at most `MAX_DIGITS` digits, so that a number can never cost more than a moment.

    Args:
        text: the number and nothing else.
        spaced_digits: the digits are separated by exactly one space each (`4 9 5`), the spelling of Nye et al. 2021.
        thousands: ASCII commas may stand between groups of three digits, between all of them or none (`1,234,567`); a
            number with commas has no leading zero.

    >>> parse_integer("-12"), parse_integer("1 2"), parse_integer("1 2", spaced_digits=True), parse_integer("1e3")
    (-12, None, 12, None)
    >>> parse_integer("1,234"), parse_integer("1,234", thousands=True), parse_integer("12,34", thousands=True)
    (None, 1234, None)
    """
    pattern = _SPACED if spaced_digits else _THOUSANDS if thousands else _PLAIN
    if len(text) > 2 * MAX_DIGITS + 2 or not pattern.fullmatch(text):
        return None
    digits = text.replace(" ", "").replace(",", "")
    return int(digits) if len(digits.lstrip("+-")) <= MAX_DIGITS else None


def check_options(*, spaced_digits: bool = False, thousands: bool = False, prefix: str = "") -> None:
    """Raise `BadOptions` where two spellings exclude each other."""
    if spaced_digits and thousands:
        raise BadOptions("grader 'integer': spaced_digits and thousands are two spellings; give one")


def check_gold(gold: str, *, spaced_digits: bool = False, thousands: bool = False, prefix: str = "") -> None:
    """Raise `GoldAnswerError` unless the data's own answer can be graded."""
    if _after(prefix, gold, spaced_digits, thousands) is None:
        raise GoldAnswerError.of(gold, "is not an integer in the spelling that the task states")


def _after(prefix: str, text: str, spaced_digits: bool, thousands: bool) -> int | None:
    if not text.startswith(prefix):
        return None
    return parse_integer(text[len(prefix) :], spaced_digits=spaced_digits, thousands=thousands)


def grade_integer(
    answer: str, gold: str, *, spaced_digits: bool = False, thousands: bool = False, prefix: str = ""
) -> Reward:
    """CORRECT if both spell the same integer, each after `prefix` to the letter (`total: ` in Nye's polynomials).

    Raises `GoldAnswerError` if `gold` does not spell one.
    """
    check_gold(gold, spaced_digits=spaced_digits, thousands=thousands, prefix=prefix)
    value = _after(prefix, answer, spaced_digits, thousands)
    if value is None:
        wanted = f"{prefix!r} and an integer" if prefix else "an integer"
        return Reward.of(Outcome.UNPARSEABLE, f"{answer[:80]!r} is not {wanted}")
    return Reward.of(Outcome.CORRECT if value == _after(prefix, gold, spaced_digits, thousands) else Outcome.WRONG)

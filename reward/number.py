"""Exact rational arithmetic: is this the same number, within a stated tolerance?"""

from __future__ import annotations

import re
from fractions import Fraction

from reward.types import BadOptions, GoldAnswerError, Outcome, Reward

MAX_DIGITS = 4000
MAX_EXPONENT = 400
_DECIMAL = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<part>[0-9]+))?(?:[eE](?P<exponent>[+-]?[0-9]{1,4}))?")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])")
_RATIO = re.compile(r"([+-]?[0-9]+)/([0-9]+)")

Tolerance = str | int | float


def parse_decimal(text: str, *, exponent: bool = False) -> Fraction | None:
    """The value of a whole number or a decimal, exactly, or None.

    ASCII digits, at most one sign and one point; leading and trailing zeros are allowed (`007.50` is 15/2), and so is
    `.5`. `5.` is not: a full stop ends a sentence. No infinity, NaN, hexadecimal, underscore, comma, other scripts'
    digits or minus signs. At most `MAX_DIGITS` digits, and exponents between +-`MAX_EXPONENT`, so that a number can
    never cost more than a moment.

    Args:
        text: the number and nothing else.
        exponent: `1e3` and `1.5E-3` are read too.

    >>> parse_decimal("-1.50"), parse_decimal("5."), parse_decimal("1e3"), parse_decimal("1e3", exponent=True)
    (Fraction(-3, 2), None, None, Fraction(1000, 1))
    """
    if len(text) > MAX_DIGITS + 8:
        return None
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match["whole"] or match["part"]) or (match["exponent"] and not exponent):
        return None
    part, power = match["part"] or "", int(match["exponent"] or 0)
    digits = match["whole"] + part
    if len(digits) > MAX_DIGITS or abs(power) > MAX_EXPONENT:
        return None
    power -= len(part)
    value = int(match["sign"] + digits)
    return Fraction(value * 10 ** max(power, 0), 10 ** max(-power, 0))


def parse_number(
    text: str, *, percent: bool = False, thousands: bool = False, exponent: bool = False
) -> Fraction | None:
    """The rational number that `text` spells, or None: a whole number, a decimal, or a fraction `a/b`.

    A fraction has one sign, in front, whole numbers without commas, no space, and b is not 0; it need not be in lowest
    terms. For the rest see `parse_decimal`.

    Args:
        text: the number and nothing else.
        percent: a `%` may follow a decimal directly, and divides it by 100.
        thousands: ASCII commas may stand between groups of three digits before the point, all of them or none, and then
            there is no leading zero.
        exponent: `1e3` is read too.

    >>> parse_number("-2/4"), parse_number("1/0"), parse_number("50%", percent=True)
    (Fraction(-1, 2), None, Fraction(1, 2))
    >>> parse_number("1,234.5", thousands=True), parse_number("12,34", thousands=True)
    (Fraction(2469, 2), None)
    """
    if len(text) > 2 * MAX_DIGITS + 8:
        return None
    ratio = _RATIO.fullmatch(text)
    if ratio:
        if max(map(len, ratio.groups())) > MAX_DIGITS or not ratio[2].strip("0"):
            return None
        return Fraction(int(ratio[1]), int(ratio[2]))
    hundredth = percent and text.endswith("%")
    text = text[:-1] if hundredth else text
    grouped = _GROUPED.match(text) if thousands else None
    if grouped:
        text = grouped[0].replace(",", "") + text[grouped.end() :]
    value = parse_decimal(text, exponent=exponent)
    return value / 100 if hundredth and value is not None else value


def parse_tolerance(name: str, value: Tolerance) -> Fraction:
    """A tolerance as it is written, exactly: `0.1` is 1/10, as text or as a number. Raises `BadOptions`."""
    fraction = parse_decimal(str(value), exponent=True) if not isinstance(value, bool) else None
    if fraction is None or fraction < 0:
        raise BadOptions(f"option {name} is {value!r}; expected a number of 0 or more, such as '1e-6'")
    return fraction


def close(value: Fraction, gold: Fraction, absolute: Fraction, relative: Fraction) -> bool:
    """Whether the two differ by at most `absolute`, or by at most `relative` times the gold's size."""
    return abs(value - gold) <= max(absolute, relative * abs(gold))


def check_options(
    *,
    percent: bool = False,
    thousands: bool = False,
    exponent: bool = False,
    tolerance: Tolerance = 0,
    relative_tolerance: Tolerance = 0,
) -> None:
    """Raise `BadOptions` unless the tolerances are numbers of 0 or more."""
    parse_tolerance("tolerance", tolerance)
    parse_tolerance("relative_tolerance", relative_tolerance)


def check_gold(
    gold: str,
    *,
    percent: bool = False,
    thousands: bool = False,
    exponent: bool = False,
    tolerance: Tolerance = 0,
    relative_tolerance: Tolerance = 0,
) -> None:
    """Raise `GoldAnswerError` unless the data's own answer can be graded."""
    if parse_number(gold, percent=percent, thousands=thousands, exponent=exponent) is None:
        raise GoldAnswerError.of(gold, "is not a number in the spelling that the task states")


def grade_number(
    answer: str,
    gold: str,
    *,
    percent: bool = False,
    thousands: bool = False,
    exponent: bool = False,
    tolerance: Tolerance = 0,
    relative_tolerance: Tolerance = 0,
) -> Reward:
    """CORRECT if both spell the same rational number, or differ by no more than one of the tolerances.

    Args:
        answer: the answer and nothing else.
        gold: the gold answer, in the same spelling.
        percent: see `parse_number`.
        thousands: see `parse_number`.
        exponent: see `parse_number`.
        tolerance: absolute, compared exactly.
        relative_tolerance: as a share of the gold answer's size, compared exactly.

    Raises:
        GoldAnswerError: if `gold` does not spell a number.
    """
    expected = parse_number(gold, percent=percent, thousands=thousands, exponent=exponent)
    if expected is None:
        raise GoldAnswerError.of(gold, "is not a number in the spelling that the task states")
    value = parse_number(answer, percent=percent, thousands=thousands, exponent=exponent)
    if value is None:
        return Reward.of(Outcome.UNPARSEABLE, f"{answer[:80]!r} is not a number")
    absolute = parse_tolerance("tolerance", tolerance)
    right = close(value, expected, absolute, parse_tolerance("relative_tolerance", relative_tolerance))
    return Reward.of(Outcome.CORRECT if right else Outcome.WRONG)

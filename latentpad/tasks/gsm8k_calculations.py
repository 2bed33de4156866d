"""Calculations inside prose, marked `<<48/2=24>>24` as in GSM8K or plain `48/2 = $24`: checked exactly, never run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from latentpad.tasks import ScratchpadError

MAX_CHARS, MAX_DEPTH, MAX_DIGITS = 200, 20, 30
MARK = re.compile(r"<<([^<>\n]*)>>")
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
NUMBERS = re.compile(_NUMBER)
_TOKEN = re.compile(r" *([0-9]+(?:\.[0-9]*)?|\.[0-9]+|//|[-+*/()]) *")
_RESULT = re.compile(rf" *[$€£]?(?P<number>-?(?:{_NUMBER})(?:/[0-9]+)?)(?![0-9])(?P<percent>%?)")
# Minus sign, en dash and multiplication sign are what people write.
_LEFT = re.compile(r"(?<![0-9.])[-\u2212\u2013+*\u00d7x/÷0-9.,$€£()% ]*$")
_SIGNS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00d7": "*", "x": "*", "÷": "/", "$": "", "€": "", "£": "", " ": ""}
)
# What takes part in a plain calculation and stands before what can be read of it: `half of 20 + 5 = 25`.
_TAKES_PART = re.compile(
    r"(?:(?:half|third|quarter|fourth|fifth|tenth|%|[0-9]) of|\b(?:by|times|plus|minus|over|than))\s*$", re.I
)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a calculation that holds.

    Attributes:
        value: exactly.
        text: as it is written in the prose, without commas.
        start, end: its place in the line, marks left out, with what stands between it and its `=`.
        marked: the calculation stands in a mark.
    """

    value: Fraction
    text: str
    start: int
    end: int
    marked: bool


def value_of(expression: str, instead: Mapping[Fraction, Fraction] | None = None) -> Fraction:
    """The value of whole numbers and decimals with `+ - * / //`, signs and parentheses, exactly.

    Args:
        expression: at most `MAX_CHARS` characters, `MAX_DEPTH` parentheses and signs deep.
        instead: numbers to compute with in place of those that are written.

    Raises:
        ValueError: it is anything else, or divides by zero.

    >>> value_of("(1+.5)*4"), value_of("7//2"), value_of("4/2", {Fraction(4): Fraction(5)})
    (Fraction(6, 1), Fraction(3, 1), Fraction(5, 2))
    """
    tokens, end = [], 0
    while end < len(expression):
        match = _TOKEN.match(expression, end)
        if match is None or len(expression) > MAX_CHARS or len(match[1]) > MAX_DIGITS:
            raise ValueError(f"{expression[:40]!r} is not a calculation")
        tokens.append(match[1])
        end = match.end()
    rest = [*reversed(tokens)]
    try:
        value = _sum(rest, instead or {}, 0)
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{expression[:40]!r} has no value") from error
    if rest:
        raise ValueError(f"{expression[:40]!r} is not a calculation")
    return value


def _sum(rest: list[str], instead: Mapping[Fraction, Fraction], depth: int) -> Fraction:
    value = _product(rest, instead, depth)
    while rest and rest[-1] in "+-":
        value += _product(rest, instead, depth) if rest.pop() == "+" else -_product(rest, instead, depth)
    return value


def _product(rest: list[str], instead: Mapping[Fraction, Fraction], depth: int) -> Fraction:
    value = _factor(rest, instead, depth)
    while rest and rest[-1] in ("*", "/", "//"):
        sign, factor = rest.pop(), _factor(rest, instead, depth)
        value = value * factor if sign == "*" else value / factor if sign == "/" else Fraction(value // factor)
    return value


def _factor(rest: list[str], instead: Mapping[Fraction, Fraction], depth: int) -> Fraction:
    token = rest.pop()
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} parentheses or signs deep")
    if token in ("+", "-"):
        value = _factor(rest, instead, depth + 1)
        return -value if token == "-" else value
    if token == "(":
        value = _sum(rest, instead, depth + 1)
        if rest.pop() != ")":
            raise ValueError("a parenthesis does not close")
        return value
    if token[0] not in "0123456789.":
        raise ValueError(f"unexpected {token!r}")
    written = Fraction(token)
    return instead.get(written, written)


def number_in(text: str) -> Fraction:
    """The value of a number as prose writes it: `1,200`, `.5` or `3/4`. Raises `ValueError`."""
    return value_of(text.replace(",", ""))


def results_in(line: str) -> list[Result]:
    """The results of all calculations of a line, from left to right.

    Every mark must hold and be followed by its result, and every `=` outside the marks must stand before the result of
    one of them or of a plain calculation that holds.

    Raises:
        ScratchpadError: one does not hold, or cannot be read.

    >>> [(r.text, r.marked) for r in results_in("He pays 3*4 = $<<3*4=12>>12, so 12+1=13 in all.")]
    [('12', True), ('13', False)]
    """
    plain, found, removed = MARK.sub("", line), [], 0
    for mark in MARK.finditer(line):
        found.append(_marked(mark[1], plain, mark.start() - removed))
        removed += len(mark[0])
    begins = {result.start for result in found}
    found += [_plain(plain, sign.start()) for sign in re.finditer("=", plain) if sign.end() not in begins]
    return sorted(found, key=lambda result: result.end)


def _marked(content: str, plain: str, place: int) -> Result:
    calculation, _, written = content.rpartition("=")
    shown = f"<<{content[:60]}>>"
    try:
        computed, value = value_of(calculation), value_of(written)
    except ValueError as error:
        raise ScratchpadError(f"{shown} cannot be read") from error
    if computed != value:
        raise ScratchpadError(f"{shown} is {str(computed)[:30]}")
    result = _RESULT.match(plain, place)
    if result is None or number_in(result["number"]) != value:
        raise ScratchpadError(f"{shown} is not followed by its result")
    start = len(plain[:place].rstrip(" $€£"))
    return Result(value, result["number"].replace(",", ""), start, result.end("number"), marked=True)


def _plain(plain: str, place: int) -> Result:
    before, result = plain[max(0, place - MAX_CHARS) : place], _RESULT.match(plain, place + 1)
    left = _LEFT.search(before)
    shown = repr(plain[max(0, place - 30) : place + 15])
    if left is None or result is None or _TAKES_PART.search(before[: left.start()]):
        raise ScratchpadError(f"the calculation in {shown} cannot be read")
    text = re.sub(r"^[ ,.]*[,.] ", "", left[0])
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    if re.search(r"[0-9] +[0-9.]", text):
        raise ScratchpadError(f"the calculation in {shown} cannot be read (two numbers side by side)")
    text = text.translate(_SIGNS)
    text = re.sub(r"([0-9.]+)%", r"(\1/100)", text)
    try:
        if text[:1] in "*/+-" or not re.search(r"[-+*/]", text):
            raise ValueError("nothing is calculated")
        computed, value = value_of(text), number_in(result["number"]) / (100 if result["percent"] else 1)
    except ValueError as error:
        raise ScratchpadError(f"the calculation in {shown} cannot be read ({error})") from error
    if computed != value:
        raise ScratchpadError(f"{shown}: the value is {str(computed)[:30]}")
    return Result(value, result["number"].replace(",", ""), place + 1, result.end("number"), marked=False)


def read_lines(lines: list[str]) -> Result:
    """The result that lines of prose end in.

    The last number of the last line must be the result of a calculation, or a line without any repeats the one before.

    Raises:
        ScratchpadError: a calculation does not hold or cannot be read, or the end is neither.
    """
    before: Result | None = None
    here: list[Result] = []
    for number, line in enumerate(lines, 1):
        before = here[-1] if here else before
        try:
            here = results_in(line)
        except ValueError as error:
            raise ScratchpadError(f"line {number}: {error}") from error
    numbers = list(NUMBERS.finditer(MARK.sub("", lines[-1])))
    if here and numbers and numbers[-1].end() == here[-1].end:
        return here[-1]
    if before is not None and not here and len(numbers) == 1 and numbers[0][0].replace(",", "") == before.text:
        return before
    raise ScratchpadError(f"line {len(lines)}: it does not end in the result of a calculation")

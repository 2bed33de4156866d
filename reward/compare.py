"""Is this the output that was expected? Outside of whatever wrote it, on text that both sides are done with."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn

from reward.literal import MAX_CHARS, MAX_DEPTH, NotLiteral, parse_literal
from reward.number import Tolerance, close, parse_decimal, parse_tolerance
from reward.types import BadOptions, GoldAnswerError, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    # (actual, expected, absolute tolerance, relative tolerance) -> the verdict on `actual`
    Comparison = Callable[[str, str, Fraction, Fraction], Outcome]

ABS_TOL, REL_TOL = "1e-9", "1e-6"
_SPACE = " \t\r\f\v"
_SPACES = _SPACE + "\n"
_TOKENS = re.compile(r"[^ \t\n\r\f\v]+")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NOT_FINITE = frozenset({"nan", "inf", "-inf"})


def compare(
    actual: str, expected: str, *, mode: str = "lines", abs_tol: Tolerance = ABS_TOL, rel_tol: Tolerance = REL_TOL
) -> Outcome:
    """CORRECT if `actual` is the expected output, UNPARSEABLE if the mode cannot read it, else WRONG.

    `exact` compares code points. `lines` lets line ends (CRLF), white space at the end of a line and empty lines at the
    end differ; `unordered_lines` the order of the lines too, but not how often each comes. `tokens` compares what
    white space separates, one by one and as many. `number` is one number; `json` one JSON document, `value` one Python
    literal of plain data, both type by type: True is not 1, and 1 is not 1.0. White space is ASCII white space.

    Tolerances hold for `tokens`, `number` and `value`, and only where the *expected* number is written with a point or
    an exponent (`value`: where both are floats): at most `abs_tol` apart, or `rel_tol` times the expected size. Whole
    numbers are compared exactly. `nan` and `inf` are equal to themselves only.

    Raises:
        GoldAnswerError: if the mode cannot read `expected`.
        BadOptions: if there is no such mode, or a tolerance is not a number of 0 or more.

    >>> compare("1 \\r\\n2\\n", "1\\n2"), compare("2\\n1", "1\\n2", mode="unordered_lines")
    (<Outcome.CORRECT: 'CORRECT'>, <Outcome.CORRECT: 'CORRECT'>)
    >>> compare("0.3333333", "0.33333333333", mode="number"), compare("[1, True]", "[1, 1]", mode="value")
    (<Outcome.CORRECT: 'CORRECT'>, <Outcome.WRONG: 'WRONG'>)
    """
    check_expected(expected, mode=mode)
    return MODES[mode](actual, expected, parse_tolerance("abs_tol", abs_tol), parse_tolerance("rel_tol", rel_tol))


def check_options(*, mode: str = "lines", abs_tol: Tolerance = ABS_TOL, rel_tol: Tolerance = REL_TOL) -> None:
    """Raise `BadOptions` unless there is such a mode, and the tolerances are numbers of 0 or more."""
    if mode not in MODES:
        raise BadOptions(f"unknown comparison mode {mode!r}; known: {', '.join(MODES)}")
    parse_tolerance("abs_tol", abs_tol)
    parse_tolerance("rel_tol", rel_tol)


def check_expected(expected: str, *, mode: str) -> None:
    """Raise `GoldAnswerError` unless the mode can read the expected output."""
    check_options(mode=mode)
    if mode == "number" and _number(expected.strip(_SPACES)) is None and expected.strip(_SPACES) not in _NOT_FINITE:
        raise GoldAnswerError.of(expected, "is not a number, as the comparison 'number' needs")
    if mode in _READERS:
        try:
            _READERS[mode](expected)
        except NotLiteral as error:
            raise GoldAnswerError.of(expected, f"cannot be read by the comparison {mode!r}: {error}") from error


def lines_of(text: str) -> list[str]:
    """The lines of a text without the white space at their ends, and without the empty ones at its end."""
    lines = [line.rstrip(_SPACE) for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _verdict(same: bool) -> Outcome:
    return Outcome.CORRECT if same else Outcome.WRONG


def _exact(actual: str, expected: str, _absolute: Fraction, _relative: Fraction) -> Outcome:
    return _verdict(actual == expected)


def _lines(actual: str, expected: str, _absolute: Fraction, _relative: Fraction) -> Outcome:
    return _verdict(lines_of(actual) == lines_of(expected))


def _unordered_lines(actual: str, expected: str, _absolute: Fraction, _relative: Fraction) -> Outcome:
    return _verdict(Counter(lines_of(actual)) == Counter(lines_of(expected)))


def _tokens(actual: str, expected: str, absolute: Fraction, relative: Fraction) -> Outcome:
    ours, theirs = _TOKENS.findall(actual), _TOKENS.findall(expected)
    if len(ours) != len(theirs):
        return Outcome.WRONG
    return _verdict(all(_same_token(a, b, absolute, relative) for a, b in zip(ours, theirs, strict=True)))


def _same_token(actual: str, expected: str, absolute: Fraction, relative: Fraction) -> bool:
    """Alike, or near where the expected one is a decimal. `007` is not `7` here: it may be a string of digits."""
    if actual == expected:
        return True
    gold = None if _INTEGER.fullmatch(expected) else _number(expected)
    value = _number(actual) if gold is not None else None
    return gold is not None and value is not None and close(value, gold, absolute, relative)


def _one_number(actual: str, expected: str, absolute: Fraction, relative: Fraction) -> Outcome:
    actual, expected = actual.strip(_SPACES), expected.strip(_SPACES)
    gold, value = _number(expected), _number(actual)
    if gold is None:
        return _verdict(actual == expected) if value is not None or actual in _NOT_FINITE else Outcome.UNPARSEABLE
    if value is None:
        return Outcome.WRONG if actual in _NOT_FINITE else Outcome.UNPARSEABLE
    if _INTEGER.fullmatch(expected):
        return _verdict(value == gold)
    return _verdict(close(value, gold, absolute, relative))


def _number(text: str) -> Fraction | None:
    return parse_decimal(text, exponent=True)


def _json(actual: str, expected: str, _absolute: Fraction, _relative: Fraction) -> Outcome:
    return _data(parse_json, actual, expected, Fraction(0), Fraction(0))


def _value(actual: str, expected: str, absolute: Fraction, relative: Fraction) -> Outcome:
    return _data(_read_value, actual, expected, absolute, relative)


def _data(read: Callable[[str], Any], actual: str, expected: str, absolute: Fraction, relative: Fraction) -> Outcome:
    try:
        value = read(actual)
    except NotLiteral:
        return Outcome.UNPARSEABLE
    return _verdict(same_value(value, read(expected), absolute, relative))


def _read_value(text: str) -> Any:
    return parse_literal(text.strip(_SPACES).replace("\r\n", "\n"))


def parse_json(text: str, *, max_chars: int = MAX_CHARS) -> Any:
    """A JSON document as Python values. Raises `NotLiteral`.

    Refused: anything over `max_chars` characters or 50 levels, a key twice in one object, `NaN`, `Infinity`, numbers
    that overflow, and whole numbers of more than 4,300 digits.
    """
    if len(text) > max_chars:
        raise NotLiteral(f"longer than {max_chars} characters")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotLiteral(" ".join(str(error).split())[:80]) from error
    if _depth_over(value, MAX_DEPTH):
        raise NotLiteral(f"more than {MAX_DEPTH} deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotLiteral("a key stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise NotLiteral(f"{text[:20]} is not a number of JSON")


def _depth_over(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit + 1):
        nested = [v for v in level if isinstance(v, list | dict)]
        level = [item for v in nested for item in (v.values() if isinstance(v, dict) else v)]
    return bool(level)


def same_value(actual: Any, expected: Any, absolute: Fraction, relative: Fraction) -> bool:
    """Whether two values of plain data are equal type by type; floats by the tolerances, `nan` equal to `nan`.

    Members of sets, keys of dictionaries and complex numbers are compared without a tolerance. Dictionaries may differ
    in order.
    """
    if type(actual) is not type(expected):
        return False
    if isinstance(actual, list | tuple | dict | set | frozenset) and len(actual) != len(expected):
        return False
    if isinstance(actual, float):
        if not (math.isfinite(actual) and math.isfinite(expected)):
            return bool(_key(actual) == _key(expected))
        return bool(actual == expected) or close(Fraction(actual), Fraction(expected), absolute, relative)
    if isinstance(actual, list | tuple):
        return all(same_value(a, b, absolute, relative) for a, b in zip(actual, expected, strict=True))
    if isinstance(actual, dict):
        ours, theirs = ({_key(k): v for k, v in side.items()} for side in (actual, expected))
        return ours.keys() == theirs.keys() and all(same_value(ours[k], theirs[k], absolute, relative) for k in ours)
    return bool(_key(actual) == _key(expected))


def _key(value: Any) -> Any:
    """What equal values of one type share, as something that can be a key: types told apart, at every level."""
    if isinstance(value, tuple):
        return ("tuple", *map(_key, value))
    if isinstance(value, set | frozenset):
        return (type(value).__name__, frozenset(map(_key, value)))
    if isinstance(value, complex):
        return ("complex", _key(value.real), _key(value.imag))
    return (type(value).__name__, "nan" if isinstance(value, float) and math.isnan(value) else value)


_READERS: dict[str, Callable[[str], Any]] = {"json": parse_json, "value": _read_value}
MODES: dict[str, Comparison] = {
    "exact": _exact,
    "lines": _lines,
    "unordered_lines": _unordered_lines,
    "tokens": _tokens,
    "number": _one_number,
    "json": _json,
    "value": _value,
}

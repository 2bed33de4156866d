"""Which spellings are the same rational number: a table of rulings, properties against `Fraction` and `Decimal`."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import BadOptions, GoldAnswerError, Outcome, check_gold, check_options, grade
from reward.number import MAX_DIGITS, grade_number, parse_number

ALL = {"percent": True, "thousands": True, "exponent": True}
DECIMALS = st.from_regex(r"[+-]?[0-9]{0,12}(\.[0-9]{1,12})?", fullmatch=True).filter(lambda t: t.strip("+-"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("86", 86),
        ("+86", 86),
        ("-86", -86),
        ("007", 7),
        ("-0", 0),
        ("-1.50", Fraction(-3, 2)),
        ("007.50", Fraction(15, 2)),
        (".5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("1/2", Fraction(1, 2)),
        ("-2/4", Fraction(-1, 2)),
        ("6/3", 2),
        ("0/5", 0),
        ("01/02", Fraction(1, 2)),
    ],
)
def test_integers_decimals_and_fractions_are_read(text: str, value: Fraction) -> None:
    assert parse_number(text) == value
    assert parse_number(text, **ALL) == value


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "+", "-", ".", "-.", "/", "%", ",", "e", "e3", "."],
        *["5.", "1..2", "1.2.3", "--1", "+-1", "1-", "- 1", "1 2", " 1", "1 ", "1\n", "1.\n5", "1 .5"],
        *["1/0", "0/0", "1/00", "1/-2", "-1/-2", "1/2/3", "1 /2", "1/ 2", "1.5/2", "1/2.5", "/2", "1/", "1//2"],
        *["inf", "-inf", "nan", "Infinity", "1e", "1e+", "e1", "1e1.5", "0x1", "0b1", "0o7", "1_0", "1j", "(1)", "1+1"],
        *["\uff11", "\u0661", "\u0967", "\u00bd", "\u00b2", "\u22121", "1\u20442", "\u2460", "1\u00a0", "1\u200b"],
        *["$1", "1$", "1 %", "%1", "1%%", "1/2%", "one", "1,", ",1", "1,2", "1,23", "0,123", "1,234,5", "1.234,5"],
        *["1,234.5,678", "1,234/5", "1e401", "1e-401", "1e99999", "1e999999999", "-1e0000000001"],
    ],
)
def test_anything_else_is_unparseable_under_every_option(text: str) -> None:
    assert parse_number(text) is None
    assert parse_number(text, **ALL) is None
    assert grade_number(text, "1", **ALL).outcome is Outcome.UNPARSEABLE


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("50%", "percent", Fraction(1, 2)),
        ("-12.5%", "percent", Fraction(-1, 8)),
        ("1,234", "thousands", 1234),
        ("-1,234.50", "thousands", Fraction(-2469, 2)),
        ("1e3", "exponent", 1000),
        ("1.5E-3", "exponent", Fraction(3, 2000)),
        ("1e+400", "exponent", 10**400),
        ("1e003", "exponent", 1000),
    ],
)
def test_a_spelling_is_read_with_its_option_only(text: str, option: str, value: Fraction) -> None:
    assert parse_number(text) is None
    assert parse_number(text, **{option: True}) == value


@given(DECIMALS, DECIMALS)
def test_correct_is_equal_for_decimal(answer: str, gold: str) -> None:
    right = Decimal(answer) == Decimal(gold)
    assert grade_number(answer, gold).outcome is (Outcome.CORRECT if right else Outcome.WRONG)
    assert grade_number(gold, gold).outcome is Outcome.CORRECT


@given(st.fractions(), st.integers(1, 10**6))
def test_a_fraction_need_not_be_in_lowest_terms(value: Fraction, factor: int) -> None:
    written = f"{value.numerator * factor}/{value.denominator * factor}"
    assert parse_number(written) == value
    assert grade_number(written, f"{value.numerator}/{value.denominator}").outcome is Outcome.CORRECT


@given(DECIMALS, DECIMALS, DECIMALS, DECIMALS)
def test_tolerances_are_exact(answer: str, gold: str, absolute: str, relative: str) -> None:
    absolute, relative = absolute.lstrip("+-"), relative.lstrip("+-")
    apart, size = abs(Fraction(answer) - Fraction(gold)), abs(Fraction(gold))
    right = apart <= Fraction(absolute) or apart <= Fraction(relative) * size
    reward = grade_number(answer, gold, tolerance=absolute, relative_tolerance=relative)
    assert reward.outcome is (Outcome.CORRECT if right else Outcome.WRONG)


@pytest.mark.parametrize(
    ("answer", "tolerance", "right"),
    [
        ("1.1", "0.1", True),
        ("1.1", 0.1, True),
        ("1.1000000000000000001", 0.1, False),
        ("1.1", "1e-1", True),
        ("2", 1, True),
    ],
)
def test_a_tolerance_is_what_is_written(answer: str, tolerance: str | float, right: bool) -> None:
    assert grade_number(answer, "1", tolerance=tolerance).value == right


@pytest.mark.parametrize(
    "value", ["-1", -0.5, "inf", float("nan"), float("inf"), True, "1/2", "", "a", None, [1], "1e999"]
)
@pytest.mark.parametrize("name", ["tolerance", "relative_tolerance"])
def test_a_tolerance_that_is_no_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadOptions, match=f"option {name} is .*; expected a number of 0 or more"):
        check_options("number", {name: value})


@given(st.text(max_size=12) | st.text(alphabet="0123456789+-./,%eE ", max_size=12), st.booleans())
def test_what_is_read_is_what_python_reads(text: str, options: bool) -> None:
    value = parse_number(text, **ALL) if options else parse_number(text)
    if value is not None:
        plain = text.replace(",", "")
        assert value == (Fraction(plain.rstrip("%")) / (100 if plain.endswith("%") else 1))


def test_the_longest_number_has_4000_digits() -> None:
    assert parse_number("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    assert parse_number("9" * (MAX_DIGITS + 1)) is None
    assert parse_number("0." + "0" * (MAX_DIGITS - 2) + "1") == Fraction(1, 10 ** (MAX_DIGITS - 1))
    assert parse_number("0." + "0" * (MAX_DIGITS - 1) + "1") is None
    assert parse_number("9" * MAX_DIGITS + "/" + "7" * MAX_DIGITS) is not None
    assert parse_number("1/" + "7" * (MAX_DIGITS + 1)) is None


@pytest.mark.parametrize(
    "text",
    [
        *["9" * 10**6, "1," * 10**6, "1,234" + ",567" * 10**5, "0." + "1" * 10**6, "1/" + "3" * 10**6, "-" * 10**6],
        *["9" * 3999 + "/" + "7" * 3999, "9" * 3999 + "e400", "1e" + "9" * 10**6, "." * 10**6, "%" * 10**6],
    ],
)
def test_the_longest_answer_takes_less_than_a_moment(text: str) -> None:
    start = time.process_time()
    assert grade_number(text, "1e400", tolerance="1e-400", **ALL).outcome is not Outcome.CORRECT
    assert time.process_time() - start < 0.25


@pytest.mark.parametrize("gold", ["", "1/0", "5.", "1e3", "1,000", "50%", "\uff11", "nan", " 1", "9" * 4001])
def test_an_unreadable_gold_answer_is_an_error_of_the_data(gold: str) -> None:
    with pytest.raises(GoldAnswerError, match=r"^gold answer '.{0,80}' is not a number in the spelling"):
        check_gold("number", gold)
    with pytest.raises(GoldAnswerError):
        grade("number", "1", gold)

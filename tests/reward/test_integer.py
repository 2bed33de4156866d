"""Which spellings are the same whole number: a table of hostile inputs, and how long the worst of them take."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import BadOptions, GoldAnswerError, Outcome, Reward, check_options, grade
from reward.integer import MAX_DIGITS, check_gold, grade_integer, parse_integer

NOT_INTEGERS = [
    "",
    " ",
    "+",
    "-",
    "8 6",
    " 86",
    "86 ",
    "86\n",
    "\n86",
    "8\n6",
    "86\n86",
    "86\x00",
    "86\u200b",
    "\ufeff86",
    "+-86",
    "--86",
    "-+86",
    "- 86",
    "86-",
    "8-6",
    "8,6",
    "1,000",
    "1_000",
    "8.6",
    "86.",
    "86.0",
    ".86",
    "86e0",
    "1e3",
    "1E3",
    "0x56",
    "0b1",
    "0o7",
    "inf",
    "-inf",
    "nan",
    "Infinity",
    "None",
    "True",
    "eighty-six",
    "\uff18\uff16",
    "٨٦",
    "८६",
    "⁸⁶",
    "²",
    "Ⅷ",
    "八",
    "\u221286",
    "(86)",
    "86/1",
    "172/2",
    "80+6",
    "86%",
    "$86",
    "86 or 87",
    "=86",
    "<scratch",
    "__import__('os')",
    "9**9**9",
]


@pytest.mark.parametrize("text", NOT_INTEGERS)
def test_anything_but_ascii_digits_with_one_sign_is_unparseable(text: str) -> None:
    assert parse_integer(text) is None
    assert grade_integer(text, "86").outcome is Outcome.UNPARSEABLE


@pytest.mark.parametrize(
    ("text", "value"), [("86", 86), ("+86", 86), ("-86", -86), ("0086", 86), ("-007", -7), ("-0", 0), ("000", 0)]
)
def test_a_sign_and_leading_zeros_are_read(text: str, value: int) -> None:
    assert parse_integer(text) == value


@pytest.mark.parametrize(
    ("answer", "gold", "outcome"),
    [
        ("86", "86", Outcome.CORRECT),
        ("086", "86", Outcome.CORRECT),
        ("+86", "86", Outcome.CORRECT),
        ("-0", "0", Outcome.CORRECT),
        ("-86", "86", Outcome.WRONG),
        ("87", "86", Outcome.WRONG),
        ("68", "86", Outcome.WRONG),
        ("860", "86", Outcome.WRONG),
        ("8", "86", Outcome.WRONG),
        ("9007199254740993", "9007199254740992", Outcome.WRONG),
    ],
)
def test_correct_is_the_same_whole_number_exactly(answer: str, gold: str, outcome: Outcome) -> None:
    assert grade_integer(answer, gold) == Reward.of(outcome)


@pytest.mark.parametrize(("text", "value"), [("8 6", 86), ("8", 8), ("-8 6", -86), ("- 8 6", -86), ("0 8 6", 86)])
def test_the_papers_spelling_sets_one_space_between_digits(text: str, value: int) -> None:
    assert parse_integer(text, spaced_digits=True) == value


@pytest.mark.parametrize(
    "text",
    [
        "86",
        "8  6",
        " 8 6",
        "8 6 ",
        "8 6\n",
        "8\n6",
        "8\t6",
        "8\u00a06",
        "8 66",
        "-  8",
        "",
        "\uff18 \uff16",
        "8 - 6",
        "8,6",
    ],
)
def test_the_papers_spelling_allows_no_other_spacing(text: str) -> None:
    assert parse_integer(text, spaced_digits=True) is None


def test_white_space_around_a_whole_response_is_no_part_of_the_answer() -> None:
    assert grade("integer", "<scratch>a</scratch>\n86\n", "86").outcome is Outcome.CORRECT


@given(st.integers(min_value=-(10**60), max_value=10**60))
def test_every_integer_is_read_in_both_spellings(value: int) -> None:
    sign, digits = "-" if value < 0 else "", str(abs(value))
    assert parse_integer(f"{sign}{digits}") == value
    assert parse_integer(sign + " ".join(digits), spaced_digits=True) == value


@given(st.text(max_size=12))
def test_what_is_read_has_the_digits_that_were_written(text: str) -> None:
    value = parse_integer(text)
    assert value is None or str(abs(value)) == (text.lstrip("+-").lstrip("0") or "0")


def test_the_longest_number_has_4000_digits() -> None:
    assert parse_integer("9" * MAX_DIGITS) == 10**4000 - 1
    assert parse_integer("-" + "9" * MAX_DIGITS) == 1 - 10**4000
    assert parse_integer(" ".join("9" * MAX_DIGITS), spaced_digits=True) == 10**4000 - 1
    assert parse_integer("9" * (MAX_DIGITS + 1)) is None
    assert parse_integer("0" * (MAX_DIGITS + 1)) is None


@pytest.mark.parametrize("text", ["9" * 10**6, "9 " * 10**6, "-" * 10**6, " " * 10**6, "9" * 10**6 + "x"])
@pytest.mark.parametrize("spaced", [False, True])
def test_a_million_characters_take_less_than_a_moment(text: str, spaced: bool) -> None:
    start = time.process_time()
    reward = grade_integer(text, "8", spaced_digits=spaced)
    assert reward.outcome is Outcome.UNPARSEABLE
    assert time.process_time() - start < 0.05


def test_the_detail_of_a_long_answer_stays_a_short_line() -> None:
    detail = grade_integer("x\n" * 10**6, "8").detail
    assert detail.endswith("is not an integer")
    assert len(detail) < 200
    assert "\n" not in detail


@pytest.mark.parametrize("gold", ["", "8 6", "86.0", "\uff18\uff16", "1e3", "86\n", "9" * 4001, "nan"])
def test_an_unreadable_gold_answer_raises_even_for_a_good_answer(gold: str) -> None:
    with pytest.raises(GoldAnswerError, match="is not an integer in the spelling that the task states"):
        grade_integer("86", gold)


def test_gold_must_be_in_the_tasks_own_spelling() -> None:
    check_gold("8 6", spaced_digits=True)
    with pytest.raises(GoldAnswerError):
        check_gold("86", spaced_digits=True)
    with pytest.raises(GoldAnswerError):
        check_gold("8 6")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("-1,234,567", -1234567),
        ("+12,345", 12345),
        ("1234567", 1234567),
        ("007", 7),
        ("1,23", None),
        ("1234,567", None),
        ("1,234567", None),
        ("1,2345", None),
        (",123", None),
        ("1,,234", None),
        ("1,234,", None),
        ("0,123", None),
        ("012,345", None),
        ("1, 234", None),
        ("1.234", None),
        ("1'234", None),
        ("1_234", None),
        ("1\uff0c234", None),
        ("1,\uff12\uff13\uff14", None),
    ],
)
def test_commas_stand_between_all_thousands_or_none(text: str, value: int | None) -> None:
    assert parse_integer(text, thousands=True) == value


@given(st.integers(min_value=-(10**60), max_value=10**60))
def test_every_integer_is_read_with_commas(value: int) -> None:
    assert parse_integer(f"{value:,}", thousands=True) == value
    assert (parse_integer(f"{value:,}") is None) == (abs(value) >= 1000)


def test_two_spellings_at_once_are_refused() -> None:
    with pytest.raises(BadOptions, match="two spellings"):
        check_options("integer", {"spaced_digits": True, "thousands": True})

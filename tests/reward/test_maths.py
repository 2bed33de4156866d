"""Mathematics in LaTeX: plain numbers exactly, the rest by math-verify, and neither a question nor a hedge scores."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import GoldAnswerError, MissingPackage, Outcome, check_gold, grade, grade_many
from reward.maths import NotMaths, grade_math, read
from reward.worker import WorkerFailed
from tests.reward import hostile

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = ["5", "-3", "1/2", r"\frac{2}{3}", r"-\frac23", "0.125", "12,345", r"1\frac{1}{2}", r"50\%", "0"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        (" $5$ ", 5),
        (r"\(5\)", 5),
        (r"\[ -5 \]", -5),
        ("$$5$$", 5),
        ("x = 5", 5),
        ("1,234,567", 1234567),
        ("1{,}234", 1234),
        (r"1,\!234", 1234),
        ("0.50", Fraction(1, 2)),
        ("-1/2", Fraction(-1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"\dfrac12", Fraction(1, 2)),
        (r"-\tfrac{1}{2}", Fraction(-1, 2)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"2 \frac{1}{2}", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        (r"50\%", Fraction(1, 2)),
        ("12.5%", Fraction(1, 8)),
        (r"5\text{ cm}", 5),
        (r"5\,\mathrm{cm}^2", 5),
        (r"\$5", 5),
        (r"90^\circ", 90),
        (r"90^{\circ}", 90),
    ],
)
def test_plain_numbers_are_read_in_latex(text: str, value: Fraction) -> None:
    assert read(text).number == value


@pytest.mark.parametrize(
    "text", ["2+3", "10-5", "5!", "2^3", r"\sqrt{4}", "(5)", "|5|", "--5", r"\frac{1}{0}", "1/0", "1e3", "5."]
)
def test_what_is_still_to_be_worked_out_is_no_plain_number(text: str) -> None:
    assert read(text).number is None
    assert grade_math(text, "5").outcome is Outcome.UNPARSEABLE


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("5.0", "5", 1),
        ("05", "5", 1),
        ("x=5", "5", 1),
        ("5", "x=5", 1),
        ("y=5", "x=5", 0),
        ("10/2", "5", 0),
        ("2/4", "1/2", 0),
        ("0.5", r"\frac{1}{2}", 1),
        ("0.33333333", "1/3", 0),
        ("0", "0.0000001", 0),
        ("50", r"50\%", 0),
        ("0.5", r"50\%", 1),
        ("5", r"5\text{ cm}", 1),
        (r"5\text{cm}", r"5\text{ cm}", 1),
        (r"5\text{ m}", r"5\text{ cm}", 0),
        (r"5\text{ cm}^2", r"5\text{ cm}^3", 0),
        (r"5\text{ thousand}", "5", 0),
        ("5", r"\$5", 1),
        (r"\$5", "5", 0),
        ("odd", r"\text{odd}", 1),
        (r"\text{ odd }", r"\text{odd}", 1),
        (r"$\text{odd}$", r"\text{odd}", 1),
        ("even", r"\text{odd}", 0),
        ("odd or even", r"\text{odd}", 0),
        ("9007199254740993", "9007199254740992", 0),
    ],
)
def test_a_table_of_plain_numbers_units_and_words(answer: str, gold: str, value: float) -> None:
    assert grade("math", answer, gold).value == value
    check_gold("math", gold)


@pytest.mark.parametrize("gold", PLAIN)
@pytest.mark.parametrize("answer", hostile.MATHS)
def test_nothing_hostile_is_right_for_a_plain_number(answer: str, gold: str) -> None:
    reward = grade_math(answer, gold)
    assert reward.outcome in (Outcome.WRONG, Outcome.UNPARSEABLE)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_correct_is_the_same_fraction(answer: Fraction, gold: Fraction) -> None:
    def spelled(value: Fraction) -> list[str]:
        sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
        if bottom == 1:
            return [f"{sign}{top}", f"${sign}{top:,}$", f"x={sign}{top}.0"]
        return [f"{sign}{top}/{bottom}", rf"{sign}\frac{{{top}}}{{{bottom}}}"]

    for text in spelled(answer):
        for right in spelled(gold):
            assert grade_math(text, right).value == (answer == gold)


@given(st.text(max_size=40) | st.text(alphabet=r"0123456789\{}()[]$%^_,.+-*/=<> fractext!", max_size=40))
def test_any_text_has_a_verdict(text: str) -> None:
    assert grade_math(text, "5").outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE)


def test_a_machine_that_cannot_check_is_not_the_answers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise WorkerFailed("no worker came up")

    monkeypatch.setattr("reward.maths.find_spec", lambda _: True)
    monkeypatch.setattr("reward.worker.WorkerPool.call", fail)
    reward = grade("math", "x", "x")
    assert (reward.outcome, reward.detail) == (Outcome.GRADER_FAILED, "WorkerFailed: no worker came up")


def test_without_math_verify_plain_numbers_are_graded_and_the_rest_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reward.maths.find_spec", lambda _: None)
    assert grade("math", r"\frac12", "0.5").outcome is Outcome.CORRECT
    calls: list[Callable[[], object]] = [
        lambda: grade("math", "x", "x"),
        lambda: check_gold("math", "x"),
        lambda: grade_many("math", [("x", "x", False)] * 3),
    ]
    for call in calls:
        with pytest.raises(MissingPackage, match=r"^the grader 'math' needs math-verify: pip install"):
            call()


@pytest.mark.parametrize(
    "gold", ["", " ", "$$", "5 6", "5\n6", "\uff15", r"$5$ and $6$", r"\boxed{5}", "the answer", "9" * 600]
)
def test_a_gold_answer_that_is_not_one_expression_is_an_error_of_the_data(gold: str) -> None:
    with pytest.raises(GoldAnswerError):
        check_gold("math", gold)


@pytest.mark.parametrize(
    "text", ["5 $", "$5$6$", r"\(5\) \(6\)", "1 2", r"1\,000", r"1\quad 2", r"5\text{ is not }6", "(" * 21]
)
def test_more_than_one_expression_is_refused(text: str) -> None:
    with pytest.raises(NotMaths):
        read(text)

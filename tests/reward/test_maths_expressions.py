"""Expressions in LaTeX, by math-verify in a worker: equal is right, a hedge, a question or a bomb is not."""

from __future__ import annotations

import time
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward import GoldAnswerError, Outcome, check_gold, grade, grade_many
from reward.maths import grade_math
from tests.reward import hostile

pytestmark = pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify is not installed (extra: maths)")


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("1+x^2", "x^2+1", 1),
        ("x^2-1", "x^2+1", 0),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", 1),
        ("1.4142135623730951", r"\sqrt{2}", 0),
        ("1.4142136", r"\sqrt{2}", 0),
        ("y", "x", 0),
        ("x+y-y", "x", 0),
        (r"\{2,1\}", r"\{1,2\}", 1),
        ("2,1", r"\{1,2\}", 1),
        (r"\{1,2,2\}", r"\{1,2\}", 0),
        ("(1,2)", r"\{1,2\}", 0),
        ("1,2", "(1,2)", 0),
        ("(2,1)", "(1,2)", 0),
        ("(3,1)", "(2,1)", 0),
        ("(2,1)", "(2,1)", 1),
        ("[1,2]", "[1,2)", 0),
        ("[1,2)", "[1,2)", 1),
        (r"\left( 1, 2 \right)", "(1,2)", 1),
        ("1<x<2", "1<x<2", 1),
        ("1<x<3", "1<x<2", 0),
        ("(1,2)", "1<x<2", 0),
        ("b=2,a=1", "a=1,b=2", 1),
        ("2,1", "a=1,b=2", 0),
        ("1+2i", "2i+1", 1),
        (r"\int_0^1 2x dx \cdot \sqrt{2}", r"\sqrt{2}", 0),
        (r"\sum_{i=1}^{2} i \pi", r"3\pi", 0),
        (r"3\pi", r"3\pi", 1),
        (r"9.42477796076938", r"3\pi", 0),
        ("2x+1", "y=2x+1", 1),
        ("2x+1=y", "y=2x+1", 1),
        ("2x+2=y", "y=2x+1", 0),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", 1),
        (r"\begin{pmatrix}2\\1\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", 0),
        ("xy", "yx", 1),
        ("1024", "2^{10}", 1),
        ("(1,2) or (3,4)", r"(1,2)\cup(3,4)", 0),
        (r"(3,4)\cup(1,2)", r"(1,2)\cup(3,4)", 1),
        (r"\log_2 3", r"\log_2 3", 1),
    ],
)
def test_a_table_of_expressions(answer: str, gold: str, value: float) -> None:
    reward = grade("math", answer, gold)
    assert (reward.value, reward.outcome is Outcome.GRADER_FAILED) == (value, False)


SYMBOLIC = ["x^2+1", r"\sqrt{2}", r"\{1,2\}", "(1,2)", "1<x<2", "3x", r"\infty", r"2+3i", r"\emptyset"]


@pytest.mark.parametrize("gold", SYMBOLIC)
def test_nothing_hostile_is_right_for_an_expression(gold: str) -> None:
    check_gold("math", gold)
    answers = [text for text in hostile.MATHS if text not in (gold, r"\{\}")]  # \{\} is the empty set
    rewards = grade_many("math", [(text, gold, False) for text in answers], deadline_seconds=0.5)
    assert {reward.outcome for reward in rewards} <= {Outcome.WRONG, Outcome.UNPARSEABLE}


@pytest.mark.parametrize("answer", ["x^{10^{10^{10}}}", "(x+1)^{10000}", "x^" * 200 + "x", "9^{9^{9^{9}}}x"])
def test_an_answer_on_which_the_checker_hangs_is_wrong_and_stops_nothing(answer: str) -> None:
    start = time.monotonic()
    reward = grade_math(answer, "x^2", deadline_seconds=0.5)
    assert reward.outcome in (Outcome.WRONG, Outcome.UNPARSEABLE)
    assert time.monotonic() - start < 60
    assert grade_math("x^2", "x^2").outcome is Outcome.CORRECT


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet=r"x0123456789\{}()[]$%^_,.+-*/=<> sqrt", max_size=30))
def test_any_text_has_a_verdict_against_an_expression(text: str) -> None:
    reward = grade_math(text, "x^2+1", deadline_seconds=1)
    assert reward.outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE)


@pytest.mark.parametrize("gold", [r"\frac{1}{0}", r"\frac{x", "x+", "(1,2"])
def test_a_gold_answer_that_math_verify_cannot_use_is_an_error_of_the_data(gold: str) -> None:
    with pytest.raises(GoldAnswerError):
        check_gold("math", gold, deadline_seconds=0.5)

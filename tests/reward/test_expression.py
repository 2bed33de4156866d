"""Countdown: only real expressions over the given numbers score, and Python's own arithmetic is the oracle."""

from __future__ import annotations

import ast
import json
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import BadOptions, GoldAnswerError, Outcome, check_gold, check_options, grade
from reward.expression import MAX_CHARS, MAX_DEPTH, grade_expression, parse_expression

PUZZLE = json.dumps({"target": 24, "numbers": [4, 6, 1, 1]})


def gold(target: int, *numbers: int) -> str:
    return json.dumps({"target": target, "numbers": numbers})


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("4*6*1*1", Outcome.CORRECT),
        ("4*6/1/1", Outcome.CORRECT),
        (" ( 4 ) * 6 + 1 - 1 ", Outcome.CORRECT),
        ("6/(1-1)*4", Outcome.WRONG),
        ("4*6*1", Outcome.WRONG),
        ("4*6", Outcome.WRONG),
        ("24", Outcome.WRONG),
        ("24*1*1", Outcome.WRONG),
        ("4*6*1*1*1", Outcome.WRONG),
        ("4+6+1+1", Outcome.WRONG),
        ("4*6*(1-1)", Outcome.WRONG),
        ("4*6*11", Outcome.WRONG),
    ],
)
def test_the_numbers_are_used_as_given_and_reach_the_target(answer: str, outcome: Outcome) -> None:
    assert grade_expression(answer, PUZZLE).outcome is outcome


@pytest.mark.parametrize(
    "answer",
    [
        *[
            "",
            " ",
            "4*6*1*1=24",
            "24=4*6*1*1",
            "4x6",
            "4*6*1*1;",
            "4 6",
            "4(6)",
            "(4)(6)",
            "4**1",
            "9**9**9",
            "4//1",
            "4^1",
        ],
        *[
            "4%1",
            "-4",
            "+4",
            "4*-6",
            "-(4)",
            "4--6",
            "4+",
            "*4",
            "()",
            "(",
            ")",
            "(4",
            "4)",
            "4*(6",
            "((4)",
            "4*6)*1*1(",
        ],
        *["04*6*1*1", "00", "4.0*6*1*1", "4e0*6*1*1", "0x4", "4_0", "4,6", "1j", "abs(4)", "__import__('os')", "4\n*6"],
        *[
            "\uff14*6*1*1",
            "4\u00d76*1*1",
            "24\u00f71",
            "4\u22126",
            "\u0664",
            "4\u00a0*6",
            "4\t*6",
            "4*6*1*1 is 24",
            "4*6 or 24",
        ],
        *["9" * 13, "<scratch", "lambda: 1", "4*6*1*1#"],
    ],
)
def test_anything_but_an_expression_is_unparseable(answer: str) -> None:
    assert grade_expression(answer, PUZZLE).outcome is Outcome.UNPARSEABLE


@pytest.mark.parametrize(("answer", "everything", "anything"), [("4*6", 0, 1), ("4*6*1", 0, 1), ("6*4*1*1*1", 0, 0)])
def test_use_says_whether_numbers_may_be_left_over(answer: str, everything: int, anything: int) -> None:
    assert grade_expression(answer, PUZZLE, use="all").value == everything
    assert grade_expression(answer, PUZZLE, use="any").value == anything


def test_the_detail_says_what_is_wrong() -> None:
    assert grade_expression("6/(1-1)*4", PUZZLE).detail == "division by zero"
    assert grade_expression("6*6*1*1", PUZZLE).detail == "6 is used more often than it is given"
    assert grade_expression("4*6*1", PUZZLE).detail == "1 is not used as often as it is given"
    assert grade_expression("4/6/1/1", PUZZLE).detail == "the value is 2/3"


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.builds(
        lambda a, op, b, bare: f"{a}{op}{b}" if bare else f"({a} {op} {b})",
        *(inner, st.sampled_from("+-*/"), inner, st.booleans()),
    ),
    max_leaves=8,
)


def oracle(node: ast.expr) -> Fraction:
    """Python's own parse of the text, computed in fractions."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    assert isinstance(node, ast.BinOp)
    left, right = oracle(node.left), oracle(node.right)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    return left * right if isinstance(node.op, ast.Mult) else left / right


@given(EXPRESSIONS)
def test_an_expression_has_pythons_value(text: str) -> None:
    tree = ast.parse(text, mode="eval")
    numbers = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    try:
        value = oracle(tree.body)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            parse_expression(text)
        return
    read, used = parse_expression(text)
    assert read == value
    assert Counter(used) == Counter(numbers)
    if value.denominator == 1:
        target = int(value)
        assert grade_expression(text, gold(target, *numbers)).outcome is Outcome.CORRECT
        assert grade_expression(text, gold(target, *numbers, 7)).outcome is Outcome.WRONG
        assert grade_expression(text, gold(target + 1, *numbers)).outcome is Outcome.WRONG


@given(st.text(max_size=20) | st.text(alphabet="0123456789+-*/() ", max_size=20))
def test_nothing_is_correct_but_what_python_finds_equal(text: str) -> None:
    reward = grade_expression(text, gold(6, 1, 2, 3), use="any")
    assert reward.outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE)
    if reward.outcome is Outcome.CORRECT:
        tree = ast.parse(text.strip(), mode="eval")
        assert oracle(tree.body) == 6


def test_the_longest_and_deepest_expression() -> None:
    deep = "(" * MAX_DEPTH + "4" + ")" * MAX_DEPTH
    assert parse_expression(deep) == (4, [4])
    assert grade_expression(f"({deep})", PUZZLE).outcome is Outcome.UNPARSEABLE
    assert parse_expression("1+" * (MAX_CHARS // 2 - 1) + "1")[0] == MAX_CHARS // 2
    assert grade_expression("1+" * (MAX_CHARS // 2) + "1", PUZZLE).outcome is Outcome.UNPARSEABLE


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10**6,
        "1" * 10**6,
        "999999999999*" * 76 + "9",
        "9/7*" * 249 + "1",
        "1/" * 499 + "1",
        " " * 10**6,
        "1 " * 499,
    ],
)
def test_the_worst_answer_takes_less_than_a_moment(text: str) -> None:
    start = time.process_time()
    assert grade_expression(text, PUZZLE).outcome is not Outcome.CORRECT
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    "text",
    [
        *["", "24", "[]", "{}", '{"target": 24}', '{"target": 24, "numbers": []}', '{"target": 24.0, "numbers": [1]}'],
        *['{"target": true, "numbers": [1]}', '{"target": 24, "numbers": [1.5]}', '{"target": 24, "numbers": [-1]}'],
        *[
            '{"target": 24, "numbers": ["1"]}',
            '{"target": 24, "numbers": [1], "extra": 1}',
            '{"target": NaN, "numbers": [1]}',
        ],
        *['{"target": 24, "target": 25, "numbers": [1]}', '{"target": 24, "numbers": [1000000000000]}', "[" * 10**5],
    ],
)
def test_a_puzzle_that_is_none_is_an_error_of_the_data(text: str) -> None:
    with pytest.raises(GoldAnswerError):
        check_gold("expression", text)
    with pytest.raises(GoldAnswerError):
        grade("expression", "4*6", text)


def test_only_two_ways_of_use_are_known() -> None:
    with pytest.raises(BadOptions, match="option use is 'some'; expected 'all' or 'any'"):
        check_options("expression", {"use": "some"})

"""Polynomials: the paper's scratchpad to the letter, its ranges, and a reader that works from the question's text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpad.formats import get_format
from latentpad.recipe.errors import RecipeError
from latentpad.tasks import ScratchpadError
from latentpad.tasks.polynomial import Polynomial, parse_terms
from reward import Outcome, grade
from tests.tasks.contract import TaskContract

COMPACT, NYE = Polynomial(), Polynomial(spelling="nye")
NUMBERS = st.integers(-10, 10)


class TestPolynomialIsATask(TaskContract):
    worked = True
    small_cell = "degree=1"
    shared_cells = ("degree=0",)
    nonsense = ("degree=4", "degree=-1", "degree=1.0", "digits=1")

    @pytest.fixture(params=[("compact", False, 10), ("compact", True, 4), ("nye", False, 10)])
    def options(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        spelling, totals, largest = request.param
        options = {"name": "polynomial", "degrees": [0, 1, 2, 3], "spelling": spelling, "totals": totals}
        return options | {"max_number": largest, "max_result": largest**2 * 10}


def test_the_example_of_the_paper_byte_for_byte() -> None:
    problem, nye = NYE.parse("Evaluate -7*x**2 + 7*x + 5 at x = 1"), get_format("nye")
    assert nye.prompt(problem.question) == "Input:\nEvaluate -7*x**2 + 7*x + 5 at x = 1\n\nTarget:\n"
    assert nye.response(problem.answer, NYE.gold_scratchpad(problem)) == (
        "<scratch>\n-7*x**2: -7\n7*x: 7\n5: 5\n</scratch>\ntotal: 5"
    )


def test_the_compact_spelling() -> None:
    problem = COMPACT.parse("-7x^2+7x+5@1")
    assert COMPACT.gold_scratchpad(problem) == "-7x^2:-7\n7x:7\n5:5"
    assert (problem.answer, problem.cell, problem.id) == ("5", "degree=2", "polynomial/typed/-7x2_7x1_5x0@1")


def test_a_problem_worked_by_hand() -> None:
    problem = COMPACT.parse("7x^3+4x^2+8x-1@-5")
    assert COMPACT.gold_scratchpad(problem) == "7x^3:-875\n4x^2:100\n8x:-40\n-1:-1"
    assert problem.answer == "-816"  # -875 + 100 - 40 - 1


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from([COMPACT, NYE]))
def test_answers_are_those_of_horners_rule(a: int, b: int, c: int, d: int, x: int, task: Polynomial) -> None:
    shown = {3: a, 2: b, 1: c, 0: d}
    terms = {power: value for power, value in shown.items() if value} or {0: 0}
    problem = task.parse(task._spell(terms, x))
    assert int(problem.answer.removeprefix("total: ")) == ((a * x + b) * x + c) * x + d
    assert task.read_scratchpad(problem, task.gold_scratchpad(problem)) == problem.answer
    assert problem.cell == f"degree={max(terms)}"


@pytest.mark.parametrize("cell", ["degree=1", "degree=2", "degree=3"])
def test_numbers_stay_within_the_papers_ranges_and_reach_their_ends(cell: str) -> None:
    drawn = [COMPACT.draw("train", cell, str(i)) for i in range(3000)]
    read = [COMPACT._read(problem.question) for problem in drawn]
    numbers = {value for pair in read if pair for value in (*pair[0].values(), pair[1])}
    assert numbers == set(range(-10, 11))
    assert max(abs(int(problem.answer)) for problem in drawn) <= 1000
    assert {max(pair[0]) for pair in read if pair} == {int(cell[-1])}


def test_numbers_may_be_smaller() -> None:
    task = Polynomial(max_number=3, max_result=20)
    drawn = [task.draw("train", "degree=3", str(i)) for i in range(500)]
    read = [task._read(problem.question) for problem in drawn]
    assert {value for pair in read if pair for value in (*pair[0].values(), pair[1])} == set(range(-3, 4))
    assert max(abs(int(problem.answer)) for problem in drawn) == 20


@pytest.mark.parametrize(("largest", "result"), [(0, 10), (100, 1000), (10, 9)])
def test_ranges_that_cannot_be_are_refused(largest: int, result: int) -> None:
    with pytest.raises(RecipeError, match="expected max_number from 1 to 99, and max_result at least as much"):
        Polynomial(max_number=largest, max_result=result)


def test_no_term_has_a_zero_coefficient_unless_it_is_all() -> None:
    questions = [COMPACT.draw("train", "degree=3", str(i)).question for i in range(1000)]
    assert not [q for q in questions if "+0" in q or "-0" in q or q.startswith("0")]
    assert "0@3" in [problem.question for problem in COMPACT.distinct("test", "degree=0", 500)]


@pytest.mark.parametrize(
    "text", ["", "x", "7x", "7x@", "@1", "7y@1", "5+7x@1", "7x+7x@1", "7x^4@1", "7x^2+@1", "7x@1.5"]
)
def test_what_is_no_polynomial_is_refused(text: str) -> None:
    if text == "7x":
        assert parse_terms(text) == {1: 7}
    with pytest.raises(RecipeError, match="expected a polynomial of degree at most 3"):
        COMPACT.parse(text)


@pytest.mark.parametrize(
    ("scratchpad", "line"),
    [
        ("-7x^2:-7\n7x:7", "2 lines where the polynomial has 3 terms"),
        ("-7x^2:-7\n7x:8\n5:5", "line 2: '7x:8' does not follow for 7x at x = 1"),
        ("7x:7\n-7x^2:-7\n5:5", "line 1: '7x:7' does not follow for -7x^2 at x = 1"),
        ("-7x^2:-07\n7x:7\n5:5", "line 1: '-7x^2:-07' does not follow for -7x^2 at x = 1"),
    ],
)
def test_the_reader_says_which_line_is_wrong(scratchpad: str, line: str) -> None:
    with pytest.raises(ScratchpadError) as error:
        COMPACT.read_scratchpad(COMPACT.parse("-7x^2+7x+5@1"), scratchpad)
    assert str(error.value) == line


def test_a_corrupted_value_moves_the_total_by_as_much() -> None:
    problem = COMPACT.parse("-7x^2+7x+5@1")
    seen = set()
    for name in range(60):
        corruption = COMPACT.corrupt(problem, str(name))
        values = [int(line.split(":")[1]) for line in corruption.scratchpad.split("\n")]
        assert sum(values) == int(corruption.answer)
        seen.add(corruption.scratchpad)
    assert len(seen) == 6  # three terms, one more or one less


def test_totals_stand_at_the_end_of_each_line() -> None:
    task = Polynomial(totals=True)
    problem = task.parse("-7x^2+7x+5@1")
    assert task.gold_scratchpad(problem) == "-7x^2:-7=-7\n7x:7=0\n5:5=5"
    with pytest.raises(ScratchpadError, match="line 2: '7x:7=1' does not follow"):
        task.read_scratchpad(problem, "-7x^2:-7=-7\n7x:7=1\n5:5=5")
    corruptions = {task.corrupt(problem, str(name)).scratchpad for name in range(100)}
    assert {"-7x^2:-7=-7\n7x:7=1\n5:5=5", "-7x^2:-6=-7\n7x:7=0\n5:5=5"} <= corruptions
    assert len(corruptions) == 12


def test_the_papers_answers_need_their_word() -> None:
    outcomes = [
        grade(NYE.grader, text, "total: 5", **NYE.grader_options).outcome for text in ("total: 5", "5", "total: 6")
    ]
    assert outcomes == [Outcome.CORRECT, Outcome.UNPARSEABLE, Outcome.WRONG]


@pytest.mark.parametrize("degrees", [(), (4,), (-1,), (1, 1)])
def test_degrees_are_different_and_at_most_three(degrees: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match=r"^task\.degrees: got \[.*\]; expected different degrees from 0 to 3$"):
        Polynomial(degrees=degrees)

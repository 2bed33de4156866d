"""Countdown: solved and read by hand, and the contract."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpad.recipe.errors import RecipeError
from latentpad.tasks import SPLITS, ScratchpadError
from latentpad.tasks.countdown import Countdown
from latentpad.tasks.countdown_steps import MOST, next_steps, reachable, solve
from reward import Outcome, grade
from tests.tasks.contract import TaskContract

TASK = Countdown(numbers=(3, 4))


class TestCountdown(TaskContract):
    worked = True
    small_cell = "numbers=2"
    nonsense = ("numbers=1", "numbers=7", "numbers=04", "digits=4")

    @pytest.fixture(params=["compact", "words"])
    def options(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {"name": "countdown", "numbers": [2, 3, 4], "largest": 12, "spelling": request.param}


def test_a_puzzle_its_solution_and_its_scratchpad() -> None:
    problem = TASK.parse("8, 4,7,6:24")
    assert problem.question == "8,4,7,6:24"
    assert (problem.id, problem.cell) == ("countdown/typed/4,6,7,8:24", "numbers=4")
    assert problem.answer == '{"target": 24, "numbers": [4, 6, 7, 8]}'
    assert TASK.gold_scratchpad(problem) == "6+4=10:7,8,10\n10-7=3:3,8\n8*3=24:24"
    assert TASK.solution(problem) == "8*((6+4)-7)"
    assert TASK.canonical(problem) == "4,6,7,8:24"


def test_in_words_it_says_what_to_do() -> None:
    task = Countdown(numbers=(3,), spelling="words")
    question = task.parse("4,6,8:16").question
    assert question.startswith("Make 16 from 4, 6, 8: write one expression that uses each number exactly once")
    assert task.parse(question).question == question
    assert task.solution(task.parse(question)) == "8*(6-4)"


@pytest.mark.parametrize("scratchpad", ["6-4=2:2,8\n8*2=16:16", "6-4=2:8,2\n2*8=16:16", "4*8=32:6,32\n32/6=5:5"])
def test_another_way_is_right_too_if_every_step_is(scratchpad: str) -> None:
    problem = TASK.parse("4,6,8:16")
    if "32/6" in scratchpad:
        with pytest.raises(ScratchpadError, match="line 2: 32/6 is not 5"):
            TASK.read_scratchpad(problem, scratchpad)
    else:
        found = TASK.read_scratchpad(problem, scratchpad)
        assert grade("expression", found, problem.answer).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    ("scratchpad", "why"),
    [
        ("6-4=3:3,8", "line 1: 6-4 is not 3"),
        ("6-5=1:1,8", "line 1: there is no 5 left to use"),
        ("6+6=12:4,12", "line 1: there is no 6 left to use"),
        ("6-4=2:2,9", "line 1: the numbers left are 2,8, not 2,9"),
        ("6-4=2:2,8", "line 1: it does not end in 16 alone"),
        ("6-4=2:2,8\n8-2=6:6", "line 2: it does not end in 16 alone"),
        ("4-6=-2:-2,8", "is not 'a*b=c:' and the numbers that are left"),
        ("6 - 4 = 2: 2,8", "is not 'a*b=c:' and the numbers that are left"),
    ],
)
def test_a_step_that_does_not_hold_is_named(scratchpad: str, why: str) -> None:
    with pytest.raises(ScratchpadError) as error:
        TASK.read_scratchpad(TASK.parse("4,6,8:16"), scratchpad)
    assert why in str(error.value)


def test_from_a_changed_result_another_way_leads_to_the_target() -> None:
    problem = TASK.parse("4,6,7,8:24")
    [corruption] = {TASK.corrupt(problem, str(i)) for i in range(30)}
    assert corruption is not None
    assert corruption.scratchpad == "6+4=9:7,8,9\n10-7=3:3,8\n8*3=24:24"
    assert (corruption.prefix, corruption.answer) == ("6+4=9:7,8,9", "(8+7)+(6+4)")
    assert TASK.corrupt(TASK.parse("2,3:6"), "a") is None


def test_a_puzzle_is_asked_in_one_way() -> None:
    drawn = {TASK.draw("train", "numbers=3", str(i)) for i in range(2000)}
    assert len({problem.id for problem in drawn}) == len(drawn) < 2000


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4), st.integers(1, 200))
def test_the_solver_finds_a_way_where_there_is_one(numbers: list[int], target: int) -> None:
    puzzle = tuple(sorted(numbers))
    assert (solve(puzzle, target) is not None) == (target in reachable(puzzle))


@given(st.lists(st.integers(1, 999), min_size=2, max_size=6))
def test_no_result_is_too_large_for_the_longest_problem(numbers: list[int]) -> None:
    left = tuple(sorted(numbers))
    while len(left) > 1:
        left = max((after for _, after in next_steps(left)), key=max)
        assert 0 < max(left) <= MOST


@pytest.mark.parametrize("largest", range(10, 16))
def test_the_smallest_cell_has_problems_for_every_split(largest: int) -> None:
    task = Countdown(numbers=(2,), largest=largest, largest_target=10)
    whole = {split: {p.id.split("/")[2] for p in task.distinct(split, "numbers=2", 10**5)} for split in SPLITS}
    assert min(map(len, whole.values())) > 0
    every = {(a, b, t) for a in range(1, largest + 1) for b in range(a, largest + 1) for t in (a + b, a * b, b - a)}
    every |= {(a, b, b // a) for a in range(1, largest + 1) for b in range(a, largest + 1) if b % a == 0}
    assert set().union(*whole.values()) == {f"{a},{b}:{t}" for a, b, t in every if 1 <= t <= 10}


def test_the_order_of_the_numbers_is_no_hint() -> None:
    drawn = [TASK.parse(TASK.draw("train", "numbers=3", str(i)).question).question for i in range(400)]
    ascending = sum(sorted(n := [int(x) for x in q.split(":")[0].split(",")]) == n for q in drawn)
    assert ascending / 400 == pytest.approx(1 / 6, abs=0.08)


@pytest.mark.parametrize("text", ["4,6,8", "4:4", "1,2,3,4,5,6,7:3", "0,2:2", "4,6:0", "4,6;8", "10000,1:2"])
def test_other_than_a_puzzle_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"such as '4,6,7,8:24'$"):
        TASK.parse(text)


def test_a_puzzle_without_a_solution_is_refused() -> None:
    with pytest.raises(RecipeError, match="no solution has whole positive results all the way"):
        TASK.parse("2,3:9")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"numbers": []}, "task.numbers: got []; expected different whole numbers from 2 to 6"),
        ({"numbers": [1]}, "task.numbers: got [1]"),
        ({"numbers": [3, 3]}, "task.numbers: got [3, 3]"),
        ({"numbers": [7]}, "task.numbers: got [7]"),
        ({"numbers": [3], "largest": 9}, "task.largest: got 9; expected a whole number from 10 to 999"),
        ({"numbers": [3], "largest_target": 10000}, "task.largest_target: got 10000; expected a whole number from 10"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError) as error:
        Countdown(**options)
    assert str(error.value).startswith(why)

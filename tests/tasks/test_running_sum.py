"""Running sums: worked by hand, the contract, and the order that distinct problems come in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpad.recipe.errors import RecipeError
from latentpad.tasks import SPLITS, ScratchpadError
from latentpad.tasks.order import shuffled
from latentpad.tasks.running_sum import SHARED, Parity, RunningSum
from tests.tasks.contract import TaskContract

TASK = RunningSum(lengths=(2, 4))


class TestRunningSum(TaskContract):
    worked = True
    small_cell = "length=3"
    shared_cells = ("length=2",)
    nonsense = ("length=0", "length=03", "length=1000", "bits=3")

    @pytest.fixture(params=[7, 10])
    def options(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {"name": "running_sum", "lengths": [2, 3, 4, 30], "modulus": request.param}


@pytest.mark.parametrize(
    ("modulus", "digits", "scratchpad", "answer"),
    [(10, "3719", "3010", "0"), (10, "5", "5", "5"), (7, "6543", "6414", "4"), (2, "1011", "1101", "1")],
)
def test_running_sums_then_the_answer(modulus: int, digits: str, scratchpad: str, answer: str) -> None:
    task = RunningSum(lengths=(4,), modulus=modulus)
    problem = task.parse(digits)
    assert problem.id.endswith(f"/typed/{digits}")
    assert problem.answer == answer
    assert task.gold_scratchpad(problem) == scratchpad


def test_the_reader_says_which_place_is_wrong() -> None:
    with pytest.raises(ScratchpadError, match=r"^line 1: place 3 is 2; 1 does not lead there$"):
        TASK.read_scratchpad(TASK.parse("3719"), "3020")
    with pytest.raises(ScratchpadError, match=r"^line 1: '301' is not one digit for each of the 4 of the question$"):
        TASK.read_scratchpad(TASK.parse("3719"), "301")


def test_a_sum_of_the_modulus_or_more_is_refused() -> None:
    task = RunningSum(lengths=(2,), modulus=3)
    assert task.read_scratchpad(task.parse("12"), "10") == "0"
    with pytest.raises(ScratchpadError, match="place 2 is 3"):
        task.read_scratchpad(task.parse("12"), "13")


def test_a_changed_sum_moves_the_answer_by_as_much() -> None:
    problem = TASK.parse("3719")
    for name in map(str, range(100)):
        found = TASK.corrupt(problem, name)
        place = len(found.prefix) - 1
        change = int(found.prefix[place]) - int("3010"[place])
        assert int(found.answer) == change % 10 != 0
        assert found.scratchpad == found.prefix + "3010"[place + 1 :]


def test_no_cell_leaves_a_split_without_problems() -> None:
    seen = 0
    for modulus in range(2, 11):
        for length in range(1, 10):
            task, cell = RunningSum(lengths=(length,), modulus=modulus), f"length={length}"
            assert all(task.distinct(split, cell, 1) for split in SPLITS)
            seen += modulus**length > SHARED
    assert seen > 50


@given(st.integers(1, 3000), st.text(max_size=5))
def test_a_shuffled_range_has_every_number_once(size: int, name: str) -> None:
    found = list(shuffled(size, name))
    assert sorted(found) == list(range(size))
    assert found == list(shuffled(size, name))


def test_a_shuffled_range_is_in_no_plain_order() -> None:
    found = list(shuffled(10_000, "a"))
    assert sum(abs(a - b) < 100 for a, b in pairwise(found)) == pytest.approx(200, abs=60)
    assert sum(found[:1000]) / 1000 == pytest.approx(5000, abs=400)
    assert sum(number % 2 for number in found[:1000]) == pytest.approx(500, abs=60)
    assert found != list(shuffled(10_000, "b"))
    first = next(shuffled(10**300, "a"))
    assert 10**290 < first < 10**300


@pytest.mark.parametrize("lengths", [[], [0], [8, 8], [1000]])
def test_lengths_are_different_and_positive(lengths: list[int]) -> None:
    with pytest.raises(RecipeError, match=r"^task\.lengths: got \[.*\]; expected different lengths from 1 to 999$"):
        RunningSum(lengths=lengths)


@pytest.mark.parametrize("modulus", [0, 1, 11])
def test_the_modulus_has_one_digit_sums(modulus: int) -> None:
    with pytest.raises(RecipeError, match=r"^task\.modulus: got .*; expected a whole number from 2 to 10$"):
        RunningSum(lengths=(3,), modulus=modulus)


class TestParity(TaskContract):
    worked = True
    small_cell = "length=7"
    shared_cells = ("length=1", "length=6")
    nonsense = ("length=0", "bits=8")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"name": "parity", "lengths": [40, 1, 6, 7, 8]}


@pytest.mark.parametrize(
    ("bits", "scratchpad", "answer"), [("1011", "1101", "1"), ("0", "0", "0"), ("11", "10", "0"), ("0111", "0101", "1")]
)
def test_running_parities_then_the_parity(bits: str, scratchpad: str, answer: str) -> None:
    task = Parity(lengths=(4, 8))
    problem = task.parse(bits)
    assert (task.gold_scratchpad(problem), problem.answer) == (scratchpad, answer)
    assert problem.id == f"parity/typed/{bits}"
    assert int(answer) == bits.count("1") % 2
    with pytest.raises(RecipeError, match=r"digits below 2, such as '1011'$"):
        task.parse("012")

"""Parity: worked by hand, and the contract."""

from __future__ import annotations

from typing import Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.tasks import SPLITS, ScratchpadError
from latentpad.tasks.parity import Parity
from tests.tasks.contract import TaskContract

TASK = Parity(bits=(4, 8))


class TestParity(TaskContract):
    worked = True
    small_cell = "bits=7"
    shared_cells = ("bits=1", "bits=6")
    nonsense = ("bits=0", "bits=01", "bits=1000", "bits=-1", "length=8")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"name": "parity", "bits": [40, 1, 6, 7, 8]}


@pytest.mark.parametrize(
    ("bits", "scratchpad", "answer"), [("1011", "1101", "1"), ("0", "0", "0"), ("11", "10", "0"), ("0111", "0101", "1")]
)
def test_running_parities_then_the_answer(bits: str, scratchpad: str, answer: str) -> None:
    problem = TASK.parse(bits)
    assert (TASK.gold_scratchpad(problem), problem.answer) == (scratchpad, answer)
    assert problem.id == f"parity/typed/{bits}"


def test_the_reader_says_which_place_is_wrong() -> None:
    with pytest.raises(ScratchpadError, match=r"^line 1: place 2 is 0; 0 does not lead there$"):
        TASK.read_scratchpad(TASK.parse("1011"), "1001")


def test_a_parity_that_is_turned_over_turns_over_the_answer() -> None:
    problem = TASK.parse("1011")
    found = {TASK.corrupt(problem, str(i)) for i in range(100)}
    assert {(c.scratchpad, c.prefix) for c in found} == {
        ("0101", "0"),
        ("1001", "10"),
        ("1111", "111"),
        ("1100", "1100"),
    }
    assert {c.answer for c in found} == {"0"}


def test_every_problem_is_in_one_split_or_the_cell_is_shared() -> None:
    whole = {split: {p.question for p in TASK.distinct(split, "bits=8", 10**4)} for split in SPLITS}
    assert len(set().union(*whole.values())) == sum(map(len, whole.values())) == 256
    assert len(whole["test"]) == pytest.approx(51, abs=15)
    assert [len(TASK.distinct(split, "bits=6", 10**4)) for split in SPLITS] == [64, 64, 64]


def test_parity_is_even_half_of_the_time() -> None:
    answers = [TASK.draw("train", "bits=8", str(i)).answer for i in range(2000)]
    assert answers.count("1") / 2000 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("bits", [[], [0], [8, 8], [1000]])
def test_lengths_are_different_and_positive(bits: list[int]) -> None:
    with pytest.raises(RecipeError, match=r"^task\.bits: got \[.*\]; expected different lengths from 1 to 999$"):
        Parity(bits=bits)


@pytest.mark.parametrize("text", ["012", "1" * 1000, "1 0", "\u0661"])
def test_other_than_bits_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"expected 1 to 999 bits, such as '1011'$"):
        TASK.parse(text)

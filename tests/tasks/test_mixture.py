"""Several tasks as one: the contract, and what is each part's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component
from latentpad.tasks import Task, WorkedTask, build_task, worked
from tests.tasks.contract import TaskContract

if TYPE_CHECKING:
    from pathlib import Path

HINTED = {"name": "addition", "digits": [1, 2], "spelling": "hints"}
PARITY = {"name": "parity", "lengths": [3, 12]}


def mixture(*tasks: dict[str, Any]) -> Task:
    return build_task(Component.model_validate({"name": "mixture", "tasks": list(tasks)}))


def refused(*tasks: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as error:
        mixture(*tasks)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestMixture(TaskContract):
    worked = True
    small_cell = "addition:digits=2"
    shared_cells = ("addition:digits=1", "parity:length=3")
    nonsense = ("digits=2", "addition:length=3", "addition:", ":digits=2", "parity", "addition:addition:digits=2")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"name": "mixture", "tasks": [HINTED, PARITY]}


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Any]:
    """A task without gold scratchpads that is graded as text."""
    lines = [json.dumps({"question": f"name {i}", "answer": f"n{i}"}) for i in range(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}


def test_cells_and_alphabet_are_those_of_the_parts() -> None:
    mixed = mixture(HINTED, PARITY)
    assert mixed.cells == ("addition:digits=1", "addition:digits=2", "parity:length=3", "parity:length=12")
    assert set(mixed.alphabet) == set("0123456789+:;abcdefghijklmnopqrstuvwxyz")
    mixed.check_cell("parity:length=40")
    assert (mixed.grader, mixed.grader_options) == ("text", {})


def test_a_problem_is_the_parts_own_under_its_name() -> None:
    mixed, parity = mixture(HINTED, PARITY), build_task(Component.model_validate(PARITY))
    ours, theirs = mixed.draw("train", "parity:length=12", "any"), parity.draw("train", "length=12", "any")
    assert (ours.question, ours.answer, ours.split, ours.task) == (theirs.question, theirs.answer, "train", "parity")
    assert (ours.cell, ours.id) == ("parity:length=12", f"parity/{theirs.id}")
    assert worked(mixed).gold_scratchpad(ours) == worked(parity).gold_scratchpad(theirs)
    assert worked(mixed).corrupt(ours, "a") == worked(parity).corrupt(theirs, "a")


def test_it_has_gold_scratchpads_only_if_all_its_parts_have(rows: dict[str, Any]) -> None:
    assert isinstance(mixture(HINTED, PARITY), WorkedTask)
    plain = mixture(rows, PARITY)
    assert not isinstance(plain, WorkedTask)
    assert plain.cells == ("jsonl:all", "parity:length=3", "parity:length=12")
    assert plain.solution(plain.draw("test", "jsonl:all", "a")).startswith("n")


def test_parts_that_are_graded_otherwise_are_refused() -> None:
    assert refused(PARITY, {"name": "addition", "digits": [2]}) == (
        "task.tasks: 'parity' is graded by 'text' {} and 'addition' by 'integer' {'spaced_digits': False}; expected "
        "the same for all"
    )


def test_questions_that_may_be_of_two_parts_are_refused() -> None:
    line = refused(PARITY, {"name": "running_sum", "lengths": [3]})
    assert line.startswith("task.tasks: nothing tells the question ")
    assert "of 'parity' from one of 'running_sum'" in line


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ([], "task.tasks: got 0; expected two tasks or more"),
        ([PARITY], "task.tasks: got 1; expected two tasks or more"),
        ([PARITY, PARITY], "task.tasks: 'parity' is there twice"),
        ([PARITY, {"digits": [2]}], "task.tasks: number 2 has no name"),
        ([PARITY, {"name": "adition"}], "task.tasks: number 2: task.name: unknown task 'adition'; did you mean"),
        ([{**PARITY, "length": [2]}, HINTED], "task.tasks: number 1: task.length: unknown key of task 'parity'"),
    ],
)
def test_a_bad_part_is_named(tasks: list[dict[str, Any]], line: str) -> None:
    assert refused(*tasks).startswith(line)


def test_a_person_can_say_which_task_a_question_is_of(rows: dict[str, Any]) -> None:
    mixed = mixture(rows, PARITY)
    assert mixed.parse("parity:101") == mixed.parse("101")
    assert mixed.parse("name 7").answer == "n7"
    with pytest.raises(RecipeError, match=r"^problem 'name 700': none of the tasks reads it"):
        mixed.parse("name 700")

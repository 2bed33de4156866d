"""Writing MBPP's programs, on a small file of our own in its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.tasks.mbpp_program import MbppProgram, gold_of
from latentpad.tasks.mbpp_rows import read_mbpp
from latentpad.types import Problem
from reward import Outcome, grade
from tests.tasks.contract import TaskContract
from tests.tasks.mbpp_rows import TESTS, row, rows, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mbpp")
    write(folder / "mbpp.jsonl", rows())
    return folder


class TestMbppProgramIsATask(TaskContract):
    worked = False
    small_cell = "all"
    checked = 4

    @pytest.fixture
    def options(self, folder: Path) -> dict[str, Any]:
        return {"name": "mbpp_program", "path": str(folder / "mbpp.jsonl")}

    def differ(self, one: Problem, other: Problem) -> bool:
        """Rows of other splits have the same programs."""
        entries = [json.loads(problem.answer)["entry"] for problem in (one, other)]
        return entries[0] != entries[1]


def test_the_programs_question_shows_one_test_and_hides_the_others(folder: Path) -> None:
    tests = TESTS[0][2:]
    for shown, expected in ((1, tests[:1]), (3, tests)):
        task = MbppProgram(path=str(folder / "mbpp.jsonl"), tests_shown=shown)
        [problem] = [p for p in task.distinct("train", "all", 99) if "add_up" in p.question]
        assert problem.question == (
            "You are an expert Python programmer, and here is your task: Write function number 1. "
            "Your code should pass these tests:\n\n" + "\n".join(expected)
        )
        assert json.loads(problem.answer) == {"asserts": tests, "entry": "add_up"}
        cheat = "def add_up(n):\n    return 1"
        assert grade("program", cheat, problem.answer).outcome is Outcome.WRONG
        assert grade(
            "program", f"```python\n{task.solution(problem)}\n```", problem.answer, **task.grader_options
        ).value
    with pytest.raises(RecipeError, match="tests_shown: got 0"):
        MbppProgram(path=str(folder / "mbpp.jsonl"), tests_shown=0)


@pytest.mark.parametrize(
    ("code", "test", "more"),
    [
        ("def sum(a, b):\n    return a * b", "assert sum(2, 3) == 6", {}),  # named as a builtin
        ("import sys\ndef f():\n    return sys.maxsize", "assert f() == sys.maxsize", {}),  # the test uses its import
        ("class N:\n    v = 1\ndef f(n):\n    return n.v", "assert f(a) == 1", {"test_setup_code": "a = N()"}),
    ],
)
def test_what_the_tests_take_for_granted_is_there(tmp_path: Path, code: str, test: str, more: dict[str, Any]) -> None:
    [found] = read_mbpp(write(tmp_path / "rows.jsonl", [row(20, code, [test], **more)]), None)
    assert grade("program", code, gold_of(found, challenge=False)).outcome is Outcome.CORRECT
    wrong = code.replace("return", "return 1,")
    assert grade("program", wrong, gold_of(found, challenge=False)).outcome is Outcome.WRONG


def test_challenge_tests_count_if_asked_for(tmp_path: Path) -> None:
    found = [
        *rows(),
        row(20 + 300, "def f(n):\n    return n", ["assert f(1) == 1"], challenge_test_list=["assert f(2) == 3"]),
    ]
    path = write(tmp_path / "rows.jsonl", found)
    outcomes = []
    for challenge in (False, True):
        task = MbppProgram(path=path, challenge_tests=challenge)
        [problem] = [p for p in task.distinct("test", "all", 99) if "f(1)" in p.question]
        outcomes.append(grade(task.grader, task.solution(problem), problem.answer).outcome)
    assert outcomes == [Outcome.CORRECT, Outcome.WRONG]

"""Predicting what MBPP's programs return, on a small file of our own in its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.tasks.mbpp import Mbpp
from latentpad.tasks.mbpp_program import MbppProgram
from latentpad.tasks.mbpp_rows import call_and_value, read_mbpp
from reward.sandbox import Run, Status, shared
from tests.tasks.contract import TaskContract
from tests.tasks.mbpp_rows import one_problem, row, rows, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mbpp")
    write(folder / "mbpp.jsonl", rows())
    return folder


def options_of(folder: Path, **more: Any) -> dict[str, Any]:
    return {"path": str(folder / "mbpp.jsonl"), "cache": str(folder / "cache"), **more}


class TestMbppIsATask(TaskContract):
    worked = True
    small_cell = "steps=1-5"
    nonsense = ("steps=1-4", "steps=11-20")
    checked = 4

    @pytest.fixture(params=["nye", "compact"])
    def options(self, folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
        return options_of(folder, name="mbpp", spelling=request.param)


def test_splits_are_the_published_ones_and_copies_go_from_train(folder: Path, tmp_path: Path) -> None:
    copy = "def total(m):  # renamed\n  t = 0\n  for i in range(m):\n    t += i\n  return t"
    found = [*rows(), row(700, copy, ["assert total(3) == 3", "assert total(8)==28", "assert total(8) == 28"])]
    task = Mbpp(path=write(tmp_path / "rows.jsonl", found), cache=str(folder / "cache"), step_bounds=())
    assert task.coverage() == (
        "mbpp train: 25 of 27 tests became problems (1 the same as one in test; 1 the same as another)",
        "mbpp validation: 12 of 12 tests became problems (none left out)",
        "mbpp test: 12 of 12 tests became problems (none left out)",
    )
    questions = [p.question for s in ("train", "validation", "test") for p in task.distinct(s, "steps=1+", 99)]
    assert len(questions) == 49
    assert not any("add_up(9)" in question for question in questions)  # task 1, an example for prompts


def test_long_traces_are_left_out_of_all_splits_and_counted(folder: Path) -> None:
    whole, short = (Mbpp(**options_of(folder, step_bounds=(), max_trace_characters=n)) for n in (16384, 420))
    problems = [p for s in ("train", "validation", "test") for p in whole.distinct(s, "steps=1+", 99)]
    fit = [p for p in problems if len(whole.gold_scratchpad(p)) <= 420]
    kept = [p for s in ("train", "validation", "test") for p in short.distinct(s, "steps=1+", 99)]
    assert {p.question for p in kept} == {p.question for p in fit}
    assert 0 < len(kept) < len(problems) == 48
    assert "longer than max_trace_characters" in short.coverage()[0]


def test_programs_print_their_gold_answers_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    task = Mbpp(**options_of(folder, step_bounds=()))
    pairs = [(task, p) for p in task.distinct("train", "steps=1+", 99)]
    code = "from collections import Counter\ndef f():\n    print('!')\n    return Counter('ab'), {'c', 'b'}"
    pairs.append(one_problem(tmp_path, code, "f()", "({'a': 1, 'b': 1}, {'b', 'c'})"))
    results = shared().run_many([Run(task.program(problem)) for task, problem in pairs])
    assert {result.status for result in results} == {Status.OK}
    assert [result.stdout for result in results] == [f"{problem.answer}\n" for _, problem in pairs]
    assert pairs[-1][1].answer == "({'a': 1, 'b': 1}, {'b', 'c'})"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"task_id": 975}, "task_id is 975; expected a number from 1 to 974"),
        ({"task_id": True}, "task_id is true; expected a number from 1 to 974"),
        ({"task_id": 11}, "task_id 11 stands in "),
        ({"code": 3}, "column 'code' is int; expected text"),
        ({"test_list": []}, "test_list and challenge_test_list are to be lists of text"),
        ({"test_list": [1]}, "test_list and challenge_test_list are to be lists of text"),
    ],
)
def test_a_row_that_is_not_as_published_is_an_error_in_one_line(
    tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    path = write(tmp_path / "rows.jsonl", [*rows()[:2], {**rows()[2], **change}])
    for build in (Mbpp, MbppProgram):
        with pytest.raises(RecipeError) as error:
            build(path=path)
        assert f"{path}:3: {line}" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no column 'code'; expected MBPP's columns"):
        list(read_mbpp(write(tmp_path / "rows.jsonl", [{"text": "x"}]), None))


@pytest.mark.parametrize(
    "options",
    [{"max_trace_characters": 0}, {"max_trace_characters": 10**6}, {"step_bounds": (5, 3)}, {"step_bounds": (0,)}],
)
def test_options_that_cannot_be_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"expected (1 to 16384|rising numbers from 1)"):
        Mbpp(**options_of(folder, **options))


def test_a_filter_that_leaves_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no row is left; max_trace_characters may be too small"):
        Mbpp(**options_of(folder, max_trace_characters=1))


@pytest.mark.parametrize(
    ("test", "sides"),
    [
        ("assert f( 1,'a' )==[1,2] ", ("f(1, 'a')", "[1, 2]")),
        ("assert f(1)", None),
        ("assert f(1) != 2", None),
        ("assert f(1) == 2; f(3)", None),
        ("f(", None),
    ],
)
def test_a_test_of_the_usual_form_is_taken_apart(test: str, sides: tuple[str, str] | None) -> None:
    assert call_and_value(test) == sides

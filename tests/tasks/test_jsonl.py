"""Anyone's own data: the contract, and every way in which a file can be wrong, told in one line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.recipe.schema import Component
from latentpad.tasks import SPLITS, ScratchpadError, WorkedTask, build_task
from latentpad.tasks.jsonl import JsonLines, WorkedJsonLines
from latentpad.tasks.rows import canonical_text
from tests.tasks.contract import TaskContract

ROWS = [
    {
        "question": f"What is {a} times {b}?",
        "answer": a * b,
        "steps": f"{a} times {b}:\nwhich is {a * b}",
        "level": 1 + (a > 15),
        "part": SPLITS[(a + b) % 3],
    }
    for a in range(2, 30)
    for b in range(2, 20)
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def task_of(tmp_path: Path) -> Callable[..., JsonLines]:
    """A task of these rows, in one file."""

    def make(rows: list[Any], **options: Any) -> JsonLines:
        return JsonLines(path=write(tmp_path / "data.jsonl", rows), **{"grader": "integer", **options})

    return make


@pytest.fixture(scope="session")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("jsonl") / "data.jsonl", ROWS)


class TestJsonLines(TaskContract):
    worked = False
    small_cell = "level=1"
    nonsense = ("level=3", "all")

    @pytest.fixture(params=[{"extraction": "boxed"}, {}])
    def options(self, one_file: str, request: pytest.FixtureRequest) -> dict[str, Any]:
        options = {"grader": "integer", "grader_options": request.param}
        return {"name": "jsonl", "path": one_file, "cell_column": "level", **options}


class TestWorkedJsonLines(TaskContract):
    worked = True
    small_cell = "all"
    nonsense = ("level=1",)
    corruptible = False

    @pytest.fixture
    def options(self, one_file: str) -> dict[str, Any]:
        named = {"scratchpad_column": "steps", "split_column": "part"}
        return {"name": "jsonl_worked", "path": one_file, **named}


def test_splits_go_by_the_hash_of_the_question_whatever_the_order(task_of: Callable[..., JsonLines]) -> None:
    one, other = task_of(ROWS), task_of(ROWS[::-1])
    counts = [len(one.distinct(split, "all", 10**4)) for split in SPLITS]
    assert sum(counts) == len(ROWS) == 504
    assert counts[2] / 504 == pytest.approx(0.2, abs=0.05)
    assert counts[1] / 504 == pytest.approx(0.05, abs=0.03)
    for split in SPLITS:
        assert one.distinct(split, "all", 10**4) == other.distinct(split, "all", 10**4)
        assert one.draw(split, "all", "a") == other.draw(split, "all", "a")


def test_a_column_can_say_the_split(task_of: Callable[..., JsonLines]) -> None:
    task = task_of(ROWS, split_column="part")
    for split in SPLITS:
        expected = {row["question"] for row in ROWS if row["part"] == split}
        assert {p.question for p in task.distinct(split, "all", 10**4)} == expected


def test_files_are_for_their_splits_and_validation_is_cut_out_of_train(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ROWS[:400]), write(tmp_path / "b.jsonl", ROWS[400:])
    task = JsonLines(path={"train": train, "test": test}, grader="integer")
    counts = {split: len(task.distinct(split, "all", 10**4)) for split in SPLITS}
    assert counts["test"] == 104
    assert counts["train"] + counts["validation"] == 400
    assert 8 <= counts["validation"] <= 32


def test_a_row_that_is_held_out_is_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = {**ROWS[0], "question": "What  is 2\ntimes 2?"}
    train, test = write(tmp_path / "a.jsonl", [*ROWS[1:400], again]), write(tmp_path / "b.jsonl", [ROWS[0]] * 3)
    with caplog.at_level(logging.WARNING):
        task = JsonLines(path={"train": train, "test": test}, grader="integer")
    assert [p.question for p in task.distinct("test", "all", 9)] == ["What is 2 times 2?"]
    assert sum(len(task.distinct(split, "all", 10**4)) for split in SPLITS) == 400
    assert [record.getMessage() for record in caplog.records] == [
        "jsonl: left out 2 rows of test, in test already",
        "jsonl: left out 1 rows of train, in test already",
    ]


def test_two_answers_to_one_question_are_an_error(task_of: Callable[..., JsonLines]) -> None:
    with pytest.raises(
        RecipeError, match=r"data\.jsonl:505: answer '5', but .*data\.jsonl:1 has '4' for the same question: remove one"
    ):
        task_of([*ROWS, {**ROWS[0], "answer": 5}])


def test_questions_are_the_same_up_to_white_space() -> None:
    assert canonical_text("  caf\u00e9\n x") == canonical_text("cafe\u0301 x")
    assert canonical_text("A") != canonical_text("a")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", r"data\.jsonl:505: not JSON \(.*\); expected one object a line"),
        ("\udce9", r"data\.jsonl:505: not JSON \(.*utf-8.*\); expected one object a line"),
        ("[1]", r"data\.jsonl:505: got list; expected an object with a key for each column"),
        ("[" * 10**5, r"data\.jsonl:505: not JSON"),
        ('{"qestion": "a", "answer": 1}', r"data\.jsonl:505: no unknown column 'question'; did you mean 'qestion'\?"),
        ('{"question": 3, "answer": 1}', r"data\.jsonl:505: column 'question' is int; expected text"),
        ('{"question": "a", "answer": null}', r"data\.jsonl:505: column 'answer' is null; expected text or a number"),
        ('{"question": "a", "answer": true}', r"data\.jsonl:505: column 'answer' is true; expected text or a number"),
        ('{"question": "a", "answer": "x"}', r"data\.jsonl:505: gold answer 'x' is not an integer"),
    ],
)
def test_a_bad_row_is_named(task_of: Callable[..., JsonLines], tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "data.jsonl"
    write(file, ROWS)
    with file.open("ab") as end:
        end.write(line.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecipeError, match=why) as error:
        JsonLines(path=str(file), grader="integer")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"split_column": "level"}, r"column 'level' is int; expected text"),
        ({"split_column": "question"}, r"data\.jsonl:1: unknown split 'What is 2 times 2\?'"),
        ({"grader": "intger"}, r"^task\.grader: unknown grader 'intger'"),
        ({"grader_options": {"space": True}}, r"^task\.grader: grader 'integer' has no option 'space'"),
        ({"grader_options": {"extraction": "bold"}}, r"^task\.grader: unknown extraction rule 'bold'"),
        ({"cell_column": "answer"}, r"^task: cell 'answer=\d+' has rows for .*; every split needs one: join cells"),
        ({"hub": "some/data"}, r"^task: give exactly one of 'path' \(local JSONL\) and 'hub'"),
    ],
)
def test_options_that_do_not_fit_the_data_are_named(
    task_of: Callable[..., JsonLines], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(RecipeError, match=why):
        task_of(ROWS, **options)


def test_a_missing_file_and_an_unknown_split_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", ROWS)
    assert JsonLines(path="train.jsonl", grader="integer").cells == ("all",)
    with pytest.raises(RecipeError, match=r"no such file: trian\.jsonl \(.*\); did you mean 'train\.jsonl'\?"):
        JsonLines(path="trian.jsonl")
    with pytest.raises(RecipeError, match=r"^task\.path: unknown split 'dev'"):
        JsonLines(path={"dev": "train.jsonl"})
    with pytest.raises(RecipeError, match=r"^task: there are no rows to train on"):
        JsonLines(path={"test": "train.jsonl"}, grader="integer")
    with pytest.raises(RecipeError, match=r"give exactly one of 'path'"):
        JsonLines()


def test_a_recipe_says_in_one_line_what_is_wrong_with_its_data(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", [*ROWS, {"question": "?", "answer": "x"}])
    with pytest.raises(RecipeError, match=r"^task: .*data\.jsonl:505: gold answer 'x' is not an integer"):
        build_task(Component(name="jsonl", path=path, grader="integer"))
    with pytest.raises(RecipeError, match=r"^task\.path"):
        build_task(Component(name="jsonl", path=3))


class Hub(ModuleType):
    """A stand-in for `datasets`."""

    def load_dataset(self, name: str, config: str | None) -> dict[str, list[dict[str, Any]]]:
        if name == "nobody/nothing":
            raise ConnectionError("Couldn't reach\nthe Hub")
        if name == "some/tests":
            return {"test": ROWS}
        assert (name, config) == ("some/data", "main")
        return {"train": ROWS[:400], "test": ROWS[400:], "other": [{}]}


def test_a_dataset_on_the_hub_is_read_by_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub("datasets"))
    task = JsonLines(hub="some/data", hub_config="main", grader="integer")
    assert len(task.distinct("test", "all", 10**4)) == 104
    with pytest.raises(RecipeError, match=r"^task\.hub: cannot load 'nobody/nothing' \(Couldn't reach the Hub\)"):
        JsonLines(hub="nobody/nothing")
    with pytest.raises(RecipeError, match=r"^task\.hub: 'some/tests' has no split 'train' \(it has: test\)"):
        JsonLines(hub="some/tests")


def test_without_datasets_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MachineError, match=r"^task\.hub needs datasets: pip install 'latentpad\[trl\]', or give 'path'"
    ):
        JsonLines(hub="some/data")


def test_a_scratchpad_other_than_the_rows_own_is_refused(one_file: str) -> None:
    task = WorkedJsonLines(path=one_file, scratchpad_column="steps")
    problem = task.parse("What is 3 times 4?")
    assert task.read_scratchpad(problem, "3 times 4:\nwhich is 12") == "12"
    with pytest.raises(ScratchpadError, match=r"^line 2: 'which is 13' is not what the data has"):
        task.read_scratchpad(problem, "3 times 4:\nwhich is 13")
    with pytest.raises(ScratchpadError, match=r"^line 2: missing; the data has 2 lines"):
        task.read_scratchpad(problem, "3 times 4:")
    assert not isinstance(JsonLines(path=one_file), WorkedTask)


def test_the_longest_problem_bounds_questions_and_responses(task_of: Callable[..., JsonLines]) -> None:
    long_answer = {"question": "Q", "answer": "1" * 50}
    task = task_of([*ROWS, long_answer])
    longest = task.longest("all")
    assert len(longest.question) == max(len(str(row["question"])) for row in ROWS)
    assert task.solution(longest) == longest.answer == "1" * 50


def test_programs_can_bring_a_reference_that_is_not_the_gold_answer(task_of: Callable[..., JsonLines]) -> None:
    rows = [{**row, "gold": {"target": row["answer"], "numbers": [row["answer"]]}} for row in ROWS]
    for row in rows:
        row["answer"] = str(row["answer"])
    task = task_of(rows, grader="expression", answer_column="gold", solution_column="answer")
    problem = task.parse("What is 3 times 4?")
    assert (task.solution(problem), problem.answer) == ("12", '{"target": 12, "numbers": [12]}')

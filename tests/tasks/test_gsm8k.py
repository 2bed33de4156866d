"""GSM8K: rows as published, read and changed by hand; the contract on rows of the same form; the real data if there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component
from latentpad.tasks import ScratchpadError, build_task
from latentpad.tasks.gsm8k import GSM8K
from latentpad.tasks.gsm8k_calculations import number_in
from latentpad.types import Problem
from reward import Outcome, grade
from tests.tasks.contract import TaskContract
from tests.tasks.data import data_file

Row = dict[str, str]


def pens(a: int, b: int, c: int) -> Row:
    total, end = a * b, a * b - c
    return {
        "question": f"A shop has {a} boxes with {b} pens each and sells {c} pens. How many are left?",
        "answer": f"The shop had {a}*{b} = <<{a}*{b}={total}>>{total} pens.\n"
        f"Now it has {total} - {c} = <<{total}-{c}={end}>>{end} left.\n#### {end:,}",
    }


def wage(a: int, b: int, c: int) -> Row:
    day, week = a * b, a * b * c
    return {
        "question": f"Ada earns ${a} an hour. She works {b} hours a day, {c} days a week. What does she earn a week?",
        "answer": f"Ada works {b} hours.\nShe earns {a} * {b} = $<<{a}*{b}={day}>>{day} a day.\n"
        f"That makes {day}*{c} = $<<{day}*{c}={week}>>{week}.\n#### {week:,}",
    }


def made_up() -> list[Row]:
    return [kind(a, b, 1 + (a * b) % 5) for kind in (pens, wage) for a in range(13, 33) for b in range(14, 26)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[Row]], GSM8K]:
    """A task of these rows, of which every fourth is for test."""

    def write(rows: list[Row], **options: Any) -> GSM8K:
        for name, part in (("train", [r for i, r in enumerate(rows) if i % 4]), ("test", rows[::4])):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        return GSM8K(path={name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}, **options)

    return write


@pytest.fixture(scope="session")
def made_up_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("gsm8k")
    for name, rows in (("train", made_up()[:400]), ("test", made_up()[400:] + made_up()[100:120])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}


class TestGSM8K(TaskContract):
    worked = True
    small_cell = "steps=2"
    nonsense = ("steps=0", "steps=1", "steps=9")
    every_digit_matters = False

    @pytest.fixture(params=[True, False])
    def options(self, request: pytest.FixtureRequest, made_up_files: dict[str, str]) -> dict[str, Any]:
        extraction = "hash" if request.param else "tags"
        return {
            "name": "gsm8k",
            "path": made_up_files,
            "calculator_marks": request.param,
            "extraction": extraction,
        }


def solve(task: GSM8K, question_of: Row) -> tuple[Problem, str]:
    problem = task.parse(question_of["question"])
    return problem, task.gold_scratchpad(problem)


def test_a_row_as_published(written: Callable[..., GSM8K]) -> None:
    rows = made_up()
    problem, scratchpad = solve(written(rows), pens(20, 25, 1))
    assert (problem.answer, problem.cell) == ("499", "steps=2")
    assert scratchpad == "The shop had 20*25 = <<20*25=500>>500 pens.\nNow it has 500 - 1 = <<500-1=499>>499 left."
    problem, scratchpad = solve(written(rows, calculator_marks=False), wage(20, 25, 1))
    assert scratchpad == "Ada works 25 hours.\nShe earns 20 * 25 = $500 a day.\nThat makes 500*1 = $500."


def test_a_gold_answer_loses_its_thousands_commas(written: Callable[..., GSM8K]) -> None:
    task = written(made_up())
    assert solve(task, wage(32, 24, 4))[0].answer == "3072"
    assert grade(task.grader, "3,072.00", "3072", **task.grader_options).outcome is Outcome.CORRECT
    assert grade(task.grader, "3073", "3072", **task.grader_options).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("extraction", "solution"), [("tags", "499"), ("boxed", r"\boxed{499}"), ("answer", "<answer>499</answer>")]
)
def test_a_solution_is_marked_as_the_rule_wants_it(
    written: Callable[..., GSM8K], extraction: str, solution: str
) -> None:
    task = written(made_up(), extraction=extraction)
    assert task.solution(solve(task, pens(20, 25, 1))[0]) == solution


@pytest.mark.parametrize(
    ("scratchpad", "answer"),
    [
        ("So 9 * 2 = $<<9*2=18>>18 a day.", "18"),
        ("So 9 * 2 = $18 a day.", "18"),
        ("Half is 1,000/2=<<1000/2=500>>500.\nBoth: 500 x 3 = 1,500 in all", "1500"),
        ("6/12=$<<6/12=.50>>.50", ".50"),
        ("3 - 1 = <<3-1=2>>2 are left.\nSo there are 2 left.", "2"),
        ("40% + 20% = 60%", "60"),
        ("(2+3)*4 = 20", "20"),
    ],
)
def test_a_scratchpad_leads_to_the_number_that_it_ends_in(
    written: Callable[..., GSM8K], scratchpad: str, answer: str
) -> None:
    task = written(made_up())
    assert task.read_scratchpad(task.longest("steps=2"), scratchpad) == answer


@pytest.mark.parametrize(
    ("scratchpad", "why"),
    [
        ("So 9 * 2 = $<<9*2=19>>19 a day.", "line 1: <<9*2=19>> is 18"),
        ("So 9 * 2 = $<<9*2=18>>19 a day.", "line 1: <<9*2=18>> is not followed by its result"),
        ("It is <<9*2=18>> a day.", "line 1: <<9*2=18>> is not followed by its result"),
        ("So 9 * 2 = $19 a day.", r"line 1: 'So 9 * 2 = $19 a day.': the value is 18"),
        ("1+1=2\n9**2 = <<9**2=81>>81", "line 2: <<9**2=81>> cannot be read"),
        ("1/0=<<1/0=1>>1", "line 1: <<1/0=1>> cannot be read"),
        ("3 boxes * 4 = 12", "line 1: the calculation in '3 boxes * 4 = 12' cannot be read (nothing is calculated)"),
        ("half of 20 + 5 = 25", "line 1: the calculation in 'half of 20 + 5 = 25' cannot be read"),
        ("x = 5", "line 1: the calculation in 'x = 5' cannot be read (nothing is calculated)"),
        ("1 1/2 * 2 = 11", "cannot be read (two numbers side by side)"),
        ("9*2=<<9*2=18>>18 a day for 3 days", "line 1: it does not end in the result of a calculation"),
        ("9*2=<<9*2=18>>18\nSo 19 in all", "line 2: it does not end in the result of a calculation"),
        ("The answer is 18", "line 1: it does not end in the result of a calculation"),
        ("(" * 150 + "1+1 = 2", "cannot be read"),
        ("<<" + "(" * 150 + "1=1>>1", "cannot be read"),
    ],
)
def test_what_does_not_hold_or_cannot_be_read_is_refused(
    written: Callable[..., GSM8K], scratchpad: str, why: str
) -> None:
    task = written(made_up())
    with pytest.raises(ScratchpadError) as error:
        task.read_scratchpad(task.longest("steps=2"), scratchpad)
    assert why in str(error.value)


def test_a_changed_result_is_followed_to_the_end(written: Callable[..., GSM8K]) -> None:
    task = written(made_up())
    problem = task.parse(wage(16, 17, 3)["question"])
    first, second = "She earns 16 * 17 = $<<16*17={}>>{} a day.", "That makes 272*3 = $<<272*3={0}>>{0}."
    found = {task.corrupt(problem, str(i)) for i in range(60)}
    assert {c.answer for c in found if c} == {"819", "813", "817", "815"}
    [c] = [c for c in found if c and c.answer == "819"]
    assert c.prefix == "Ada works 17 hours.\n" + first.format(273, 273)
    assert c.scratchpad == c.prefix + "\n" + second.format(816)


def test_nothing_is_changed_where_it_is_not_plain_what_follows(written: Callable[..., GSM8K]) -> None:
    taken = {
        "question": "There are 28 pupils, 14 of 2 rows, and 28 teachers?",
        "answer": "14*2 = <<14*2=28>>28\n28+28=<<28+28=56>>56\n#### 56",
    }
    unread = {"question": "How many?", "answer": "3 boxes * 4 = <<3*4=12>>12\nx = 12\n#### 12"}
    task = written([*made_up(), taken, unread])
    found = {task.corrupt(task.parse(taken["question"]), str(i)) for i in range(40)}
    assert {c.prefix.count("\n") for c in found if c} == {1}
    assert task.corrupt(task.parse(unread["question"]), "a") is None


def test_a_row_without_an_answer_is_named(written: Callable[..., GSM8K], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"test\.jsonl:1: no '#### ' with the answer after it"):
        written([{"question": "Why?", "answer": "Because."}, *made_up()])
    with pytest.raises(RecipeError, match=r"train\.jsonl:1: gold answer '12 pens' is not a number"):
        written([made_up()[0], {"question": "Why?", "answer": "#### 12 pens"}, *made_up()])


def test_all_real_rows_load_and_grade() -> None:
    path = {split: str(data_file(f"gsm8k_{split}.jsonl")) for split in ("train", "test")}
    task = build_task(Component(name="gsm8k", path=path))
    assert isinstance(task, GSM8K)
    assert task.cells == ("steps=2", "steps=3", "steps=4", "steps=5", "steps=6", "steps=7", "steps=8+")
    found = {s: [p for c in task.cells for p in task.distinct(s, c, 10**5)] for s in ("train", "validation", "test")}
    assert (len(found["train"]) + len(found["validation"]), len(found["test"])) == (7473, 1319)
    rows = [problem for problems in found.values() for problem in problems]
    for problem, other in zip(rows, rows[1:] + rows[:1], strict=True):
        own, next_ones = (grade(task.grader, p.answer, problem.answer, **task.grader_options) for p in (problem, other))
        assert own.outcome is Outcome.CORRECT
        assert (next_ones.outcome is Outcome.CORRECT) == (problem.answer == other.answer)
    outcomes = Counter(read(task, problem) for problem in rows)
    assert outcomes["right"] / len(rows) > 0.85
    assert outcomes["another number"] < 20


def read(task: GSM8K, problem: Problem) -> str:
    try:
        found = task.read_scratchpad(problem, task.gold_scratchpad(problem))
    except ScratchpadError:
        return "refused"
    return "right" if number_in(found) == number_in(problem.answer) else "another number"

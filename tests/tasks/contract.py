"""The one contract of every task: subclass it in a test file and bring a fixture `options`."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, pairwise
from typing import Any, ClassVar

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component
from latentpad.tasks import SPLITS, ScratchpadError, Task, WorkedTask, build_task
from latentpad.types import Problem
from reward import Outcome, grade

NAMES = tuple(f"run/{i}" for i in range(300))
DIGESTS = """
import json, sys
from latentpad.recipe.schema import Component
from latentpad.tasks import SPLITS, build_task
from tests.tasks.contract import problems_of
task = build_task(Component(**json.loads(sys.argv[1])))
print(json.dumps([problem.id + problem.question + problem.answer for problem in problems_of(task, 5)]))
"""


def problems_of(task: Task, count: int) -> list[Problem]:
    """Draws and distinct problems of every cell and split."""
    found = []
    for cell in task.cells:
        for split in SPLITS:
            found += [*(task.draw(split, cell, name) for name in NAMES[:count]), *task.distinct(split, cell, count)]
    return found


@cache
def built(options: str) -> Task:
    return build_task(Component(**json.loads(options)))


@cache
def drawn(options: str, count: int) -> tuple[Problem, ...]:
    return tuple(problems_of(built(options), count))


def response_length(task: Task, problem: Problem) -> int:
    scratchpad = task.gold_scratchpad(problem) if isinstance(task, WorkedTask) else ""
    return len(scratchpad) + len(task.solution(problem))


def is_correct(task: Task, response: str, gold: str, **extraction: str) -> bool:
    return grade(task.grader, response, gold, **{**task.grader_options, **extraction}).outcome is Outcome.CORRECT


def is_answer(task: Task, answer: str, gold: str) -> bool:
    """The same for an answer alone, without the mark that an extraction rule looks for."""
    return is_correct(task, answer, gold, extraction="tags")


def changed_digits(text: str) -> Iterator[str]:
    """The text with one digit changed, once for every digit and every other value."""
    for place, old in enumerate(text):
        if old in string.digits:
            yield from (text[:place] + new + text[place + 1 :] for new in string.digits if new != old)


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or the refusal that it raises."""
    try:
        return function(*arguments)
    except (RecipeError, ScratchpadError) as error:
        return error


class TaskContract:
    """What every task promises; `options` gives what a recipe says under `task`, its name included.

    Attributes:
        worked: it has gold scratchpads.
        small_cell: a cell with so few problems that a test can ask for more than there are.
        shared_cells: cells that have too few problems to be split: all splits share them.
        nonsense: cells that do not exist.
        every_digit_matters: no digit of a gold scratchpad can change unnoticed; in prose it may, to no effect.
        corruptible: it says what follows from a changed value, for some problems at least.
        checked: problems a cell that the slower tests look at.
    """

    worked: ClassVar[bool]
    small_cell: ClassVar[str]
    shared_cells: ClassVar[tuple[str, ...]] = ()
    nonsense: ClassVar[tuple[str, ...]] = ()
    every_digit_matters: ClassVar[bool] = True
    corruptible: ClassVar[bool] = True
    checked: ClassVar[int] = 10

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        raise NotImplementedError

    @pytest.fixture
    def task(self, options: dict[str, Any]) -> Task:
        return built(json.dumps(options))

    @pytest.fixture
    def problems(self, options: dict[str, Any]) -> list[Problem]:
        return list(drawn(json.dumps(options), self.checked))

    @pytest.fixture
    def worked_task(self, task: Task) -> WorkedTask:
        if not self.worked:
            pytest.skip("a task without gold scratchpads")
        assert isinstance(task, WorkedTask)
        return task

    def test_it_has_gold_scratchpads_or_not(self, task: Task) -> None:
        assert isinstance(task, WorkedTask) is self.worked

    def test_draws_repeat_by_name_and_differ_between_names(self, task: Task) -> None:
        cell = task.cells[-1]
        first = [task.draw("train", cell, name) for name in NAMES]
        assert first == [task.draw("train", cell, name) for name in NAMES]
        several = len(task.distinct("train", cell, 20))
        assert len({problem.id for problem in first}) >= several > 1

    def test_problems_are_the_same_in_another_process(self, task: Task, options: dict[str, Any]) -> None:
        ours = [problem.id + problem.question + problem.answer for problem in problems_of(task, 5)]
        other = subprocess.run(
            [sys.executable, "-c", DIGESTS, json.dumps(options)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(filter(None, ["", *sys.path]))},
        )
        assert json.loads(other.stdout) == ours

    def test_a_problem_names_its_cell_and_split(self, task: Task) -> None:
        for cell in task.cells:
            for split in SPLITS:
                found = [*(task.draw(split, cell, name) for name in NAMES[:20]), *task.distinct(split, cell, 20)]
                assert {(problem.cell, problem.split) for problem in found} == {(cell, split)}

    def test_an_id_is_that_of_one_problem(self, problems: list[Problem]) -> None:
        assert len({problem.id for problem in problems}) == len(set(problems))

    def test_distinct_problems_are_different_canonical_instances(self, task: Task) -> None:
        for cell in set(task.cells) - set(self.shared_cells):
            for split in SPLITS:
                found = task.distinct(split, cell, 60)
                assert len({task.canonical(problem) for problem in found}) == len(found) > 0

    def test_more_distinct_problems_begin_with_the_same_ones(self, task: Task) -> None:
        for cell in task.cells:
            assert task.distinct("test", cell, 40)[:7] == task.distinct("test", cell, 7)[:7]

    def test_distinct_ends_where_the_cell_is_exhausted(self, task: Task) -> None:
        found = task.distinct("test", self.small_cell, 10**6)
        assert 0 < len({problem.question for problem in found}) == len(found) < 10**5
        drawn = {task.canonical(task.draw("test", self.small_cell, name)) for name in NAMES}
        assert drawn <= {task.canonical(problem) for problem in found}

    def test_no_canonical_instance_is_in_two_splits(self, task: Task) -> None:
        for cell in set(task.cells) - set(self.shared_cells):
            seen = {
                split: {
                    *(task.canonical(task.draw(split, cell, name)) for name in NAMES),
                    *(task.canonical(problem) for problem in task.distinct(split, cell, 100)),
                }
                for split in SPLITS
            }
            for one, other in combinations(SPLITS, 2):
                assert not seen[one] & seen[other], f"{cell} is both in {one} and {other}"

    def test_cells_that_are_shared_are_the_same_in_every_split(self, task: Task) -> None:
        for cell in self.shared_cells:
            found = [{task.canonical(p) for p in task.distinct(split, cell, 10**6)} for split in SPLITS]
            assert found[0] == found[1] == found[2]

    @pytest.mark.parametrize("split", ["dev", "", "typed"])
    def test_a_split_that_does_not_exist_is_an_error(self, task: Task, split: str) -> None:
        with pytest.raises(ValueError, match="expected one of train, validation, test"):
            task.draw(split, task.cells[0], "any")
        with pytest.raises(ValueError, match="expected one of train, validation, test"):
            task.distinct(split, task.cells[0], 1)

    def test_a_solution_grades_correct(self, task: Task, problems: list[Problem]) -> None:
        assert [p for p in problems if not is_correct(task, task.solution(p), p.answer)] == []

    def test_the_solution_of_another_problem_does_not_grade_correct(self, task: Task, problems: list[Problem]) -> None:
        pairs = [(a, b) for a, b in pairwise([*problems, problems[0]]) if self.differ(a, b)]
        assert pairs
        assert [(a, b) for a, b in pairs if is_correct(task, task.solution(a), b.answer)] == []

    def differ(self, one: Problem, other: Problem) -> bool:
        """The answer to one is none to the other. To be overridden where equal answers are spelled differently."""
        return one.answer != other.answer

    def test_the_alphabet_holds_every_character(self, task: Task, problems: list[Problem]) -> None:
        for problem in problems:
            scratchpad = task.gold_scratchpad(problem) if isinstance(task, WorkedTask) else ""
            assert set(problem.question + task.solution(problem) + scratchpad) <= set(task.alphabet)

    def test_no_gold_response_is_longer_than_that_of_the_longest(self, task: Task) -> None:
        for cell in task.cells:
            drawn = [task.draw(split, cell, name) for name in NAMES[:150] for split in ("train", "test")]
            longest = response_length(task, task.longest(cell))
            assert longest >= max(response_length(task, problem) for problem in drawn)

    def test_a_question_typed_by_a_person_is_the_problem_or_refused_in_one_line(
        self, task: Task, problems: list[Problem]
    ) -> None:
        for problem in problems:
            typed = attempt(task.parse, problem.question)
            if isinstance(typed, RecipeError):
                assert "\n" not in str(typed)
            else:
                assert (typed.question, typed.answer, typed.cell) == (problem.question, problem.answer, problem.cell)
                assert task.canonical(typed) == task.canonical(problem)

    @pytest.mark.parametrize("text", ["", "no problem\nat all", "\0", "9" * 5000])
    def test_nonsense_typed_by_a_person_is_refused_in_one_line(self, task: Task, text: str) -> None:
        with pytest.raises(RecipeError, match=r"\A.{1,1000}\Z"):
            task.parse(text)

    def test_cells_exist_and_nonsense_does_not(self, task: Task) -> None:
        assert len(set(task.cells)) == len(task.cells) > 0
        for cell in task.cells:
            task.check_cell(cell)
        for cell in ("", "no such cell", f"{task.cells[0]}\n", f" {task.cells[0]}", *self.nonsense):
            with pytest.raises(RecipeError, match=r"\A.{1,1000}\Z"):
                task.check_cell(cell)

    def test_a_gold_scratchpad_leads_to_the_gold_answer(self, worked_task: WorkedTask, problems: list[Problem]) -> None:
        for problem in problems:
            found = worked_task.read_scratchpad(problem, worked_task.gold_scratchpad(problem))
            assert is_answer(worked_task, found, problem.answer)

    def test_a_changed_digit_is_noticed(self, worked_task: WorkedTask, problems: list[Problem]) -> None:
        tried = 0
        for problem in problems[:: max(1, len(problems) // (3 * self.checked))]:
            for changed in changed_digits(worked_task.gold_scratchpad(problem)):
                tried += 1
                found = attempt(worked_task.read_scratchpad, problem, changed)
                if isinstance(found, str):
                    assert not self.every_digit_matters, f"{problem.question!r}: {changed!r} is accepted"
                    assert is_answer(worked_task, found, problem.answer)
                else:
                    assert "\n" not in str(found)
        assert tried > 0

    @pytest.mark.parametrize("scratchpad", ["", "\n", "?", "0", "one\ntwo", "9" * 10**5])
    def test_nonsense_is_no_scratchpad(self, worked_task: WorkedTask, scratchpad: str) -> None:
        problem = worked_task.longest(worked_task.cells[-1])
        with pytest.raises(ScratchpadError, match=r"\A.{1,1000}\Z"):
            worked_task.read_scratchpad(problem, scratchpad)

    def test_a_gold_scratchpad_with_a_line_missing_or_twice_is_noticed(
        self, worked_task: WorkedTask, problems: list[Problem]
    ) -> None:
        if not self.every_digit_matters:
            pytest.skip("prose that ends early may lead to another answer")
        for problem in problems:
            lines = worked_task.gold_scratchpad(problem).split("\n")
            for place in range(len(lines)):
                for wrong in (lines[:place] + lines[place + 1 :], lines[: place + 1] + lines[place:]):
                    with pytest.raises(ScratchpadError):
                        worked_task.read_scratchpad(problem, "\n".join(wrong))

    def test_a_corruption_repeats_by_name(self, worked_task: WorkedTask, problems: list[Problem]) -> None:
        for problem in problems[:20]:
            assert worked_task.corrupt(problem, "a") == worked_task.corrupt(problem, "a")
        found = [{worked_task.corrupt(problem, name) for name in NAMES[:50]} for problem in problems[-5:]]
        assert max(map(len, found)) > 1 or not self.corruptible

    def test_a_corruption_changes_one_line_and_the_answer_that_follows(
        self, worked_task: WorkedTask, problems: list[Problem]
    ) -> None:
        seen = 0
        for problem in problems:
            corruption = worked_task.corrupt(problem, "any")
            if corruption is None:
                continue
            seen += 1
            gold = worked_task.gold_scratchpad(problem)
            ours, theirs = gold.split("\n"), corruption.scratchpad.split("\n")
            changed = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
            assert len(changed) == 1
            assert corruption.scratchpad.startswith(corruption.prefix)
            assert not gold.startswith(corruption.prefix)
            assert corruption.prefix.count("\n") == changed[0]
            assert not is_answer(worked_task, corruption.answer, problem.answer)
            with pytest.raises(ScratchpadError):
                worked_task.read_scratchpad(problem, corruption.scratchpad)
        assert (seen > 0) is self.corruptible

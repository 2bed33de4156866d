"""Writing a program from a sentence and a test of it (MBPP, Austin et al. 2021); graded by all its tests."""

from __future__ import annotations

import ast
import json
import logging
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from latentpad.recipe.errors import RecipeError
from latentpad.tasks import SPLITS
from latentpad.tasks.mbpp_rows import MbppRow, read_mbpp
from latentpad.tasks.rows import Row, Rows, canonical_text
from latentpad.types import Problem
from reward.asserts import BadAssertion, names_bound_by, parse_quietly

_LOG = logging.getLogger(__name__)
# The prompt of Austin et al. 2021; its [BEGIN] and [DONE] are our tags.
_QUESTION = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}"
)


@dataclass(frozen=True)
class MbppProgram:
    """One problem a row, all in one cell; splits as published (test is task 11 to 510, validation to 600).

    The gold answer holds the tests, for the grader `program`; the solution is the row's own program.

    Attributes:
        path: a local JSONL file with the published columns.
        hub: the dataset's name on the hub; `google-research-datasets/mbpp` where neither is given.
        tests_shown: how many of a row's tests the question shows; all of them count. The paper shows all three.
        challenge_tests: the few rows that have challenge tests must pass those too.
    """

    path: str | None = None
    hub: str | None = None
    tests_shown: int = 1
    challenge_tests: bool = False

    def __post_init__(self) -> None:
        """Read and check all rows now, not in the middle of a run."""
        if self.tests_shown < 1:  # the first one tells the function's name
            raise RecipeError(f"task.tests_shown: got {self.tests_shown}; expected 1 or more")
        _ = self._rows

    @cached_property
    def _rows(self) -> Rows:
        rows = [self._row(row) for row in read_mbpp(self.path, self.hub) if row.split in SPLITS]
        # With few tests shown, rows may ask the same and yet have other tests: the first stays, held-out ones before.
        rows.sort(key=lambda row: ("test", "validation", "train").index(str(row.split)))
        kept: dict[str, Row] = {}
        for row in rows:
            kept.setdefault(canonical_text(row.question), row)
        if len(kept) < len(rows):
            _LOG.warning("mbpp_program: left out %d rows that ask what another row asks", len(rows) - len(kept))
        return Rows("mbpp_program", kept.values(), self.grader, self.grader_options)

    def _row(self, row: MbppRow) -> Row:
        try:
            tests = gold_of(row, challenge=self.challenge_tests)
        except BadAssertion as error:
            raise RecipeError(f"{row.where}: {error}") from error
        shown = "\n".join(row.tests[: self.tests_shown])
        question = _QUESTION.format(text=row.text, tests=shown)
        return Row(row.where, row.split, "all", question, tests, row.code)

    @property
    def grader(self) -> str:
        """The program is executed with the row's tests."""
        return "program"

    @property
    def grader_options(self) -> dict[str, Any]:
        """A program may stand in a Markdown fence; one published solution needs almost 3 seconds."""
        return {"fences": True, "cpu_seconds": 5.0}

    @property
    def cells(self) -> tuple[str, ...]:
        """All rows are in one."""
        return self._rows.cells

    @property
    def alphabet(self) -> str:
        """Every character of questions and programs."""
        return self._rows.alphabet

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless it is `all`."""
        self._rows.check_cell(cell)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """A row, each as likely as any other."""
        return self._rows.draw(split, cell, name)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Different rows, until there are no more."""
        return self._rows.distinct(split, cell, count)

    def canonical(self, problem: Problem) -> str:
        """The question up to white space."""
        return self._rows.canonical(problem)

    def solution(self, problem: Problem) -> str:
        """The row's program."""
        return self._rows.row(problem).solution

    def parse(self, text: str) -> Problem:
        """A question of the data, word for word."""
        return self._rows.parse(text)

    def longest(self, cell: str) -> Problem:
        """The longest question with the longest program."""
        return self._rows.longest(cell)


def gold_of(row: MbppRow, *, challenge: bool) -> str:
    """The gold answer of a row: its tests, as the grader `program` reads them.

    The called function is named where all tests call it directly (one row's is named `sum`, as a builtin). Modules
    that a test uses, and leaves to the program to import, are imported for it.
    """
    tests = [*row.tests, *(row.challenge_tests if challenge else ())]
    trees = [parse_quietly(test.strip()) for test in tests]
    called = {_called(tree) for tree in trees}
    entry = called.pop() if len(called) == 1 else ""
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    modules = sorted((used & sys.stdlib_module_names & names_bound_by(row.code)) - {entry})
    gold: dict[str, object] = {
        "asserts": [_prepared(test, tree, row.setup) for test, tree in zip(tests, trees, strict=True)]
    }
    if entry in names_bound_by(row.code):
        gold["entry"] = entry
    if modules:
        gold["setup"] = "\n".join(f"import {module}" for module in modules)
    return json.dumps(gold)


def _called(tree: ast.Module) -> str:
    """The function in `assert FUNCTION(...) == ...`; nothing if it is no plain name."""
    match tree.body:
        case [ast.Assert(test=ast.Compare(left=ast.Call(func=ast.Name(id=name))))]:
            return name
        case _:
            return ""


def _prepared(test: str, tree: ast.Module, setup: str) -> str:
    """The test with its setup in front of its first argument: it makes objects of the program's own classes.

    The grader's own `setup` comes before the program, and would not know them.
    """
    match tree.body:
        case [ast.Assert(test=ast.Compare(left=ast.Call(args=[first, *_] as arguments)))] if setup:
            both = f"(exec({setup!r}, globals()), {ast.unparse(first)})[1]"
            arguments[0] = ast.parse(both, mode="eval").body
            return ast.unparse(tree)
        case _:
            return test

"""Anyone's own questions and answers, from JSONL files or the hub, with gold scratchpads or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from latentpad.tasks import Corruption, ScratchpadError
from latentpad.tasks.rows import MARKS, Paths, Record, Row, Rows, read_records
from latentpad.types import Problem


@dataclass(frozen=True)
class JsonLines:
    """One problem a row, as its columns say. For splits, repeated questions and what is checked, see `Rows`.

    Attributes:
        path: of one file for all splits, or `{train: ..., validation: ..., test: ...}`.
        hub, hub_config: a dataset on the hub instead.
        question_column, answer_column: text; an answer may also be a number, or an object that the grader reads.
        solution_column: what a right policy writes for its answer, where that is not the gold answer (programs).
        cell_column: rows are in cells `<column>=<value>`; without it all are in one cell, `all`.
        split_column: says `train`, `validation` or `test`, for rows of one file.
        grader, grader_options: see `reward`; `extraction` is one of the options.
    """

    path: Paths | None = None
    hub: str | None = None
    hub_config: str | None = None
    question_column: str = "question"
    answer_column: str = "answer"
    solution_column: str | None = None
    cell_column: str | None = None
    split_column: str | None = None
    grader: str = "text"
    grader_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read and check all rows now, not in the middle of a run."""
        _ = self._rows

    @cached_property
    def _rows(self) -> Rows:
        records = read_records(self.path, self.hub, self.hub_config)
        return Rows("jsonl", map(self._row, records), self.grader, self.grader_options)

    def _row(self, record: Record) -> Row:
        answer = record.answer(self.answer_column)
        return Row(
            where=record.where,
            split=record.split if self.split_column is None else record.text(self.split_column),
            cell="all" if self.cell_column is None else f"{self.cell_column}={record.answer(self.cell_column)}",
            question=record.text(self.question_column),
            answer=answer,
            solution=answer if self.solution_column is None else record.text(self.solution_column),
            scratchpad=self._scratchpad(record),
        )

    def _scratchpad(self, record: Record) -> str:
        return ""

    @property
    def _mark(self) -> str:
        return MARKS[self.grader_options.get("extraction", "tags")]

    @property
    def cells(self) -> tuple[str, ...]:
        """Those that have rows to train on."""
        return self._rows.cells

    @property
    def alphabet(self) -> str:
        """Every character of the data and of the mark."""
        return "".join(sorted({*self._rows.alphabet, *self._mark.format("")}))

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless there are rows of this cell."""
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
        """The gold answer or the solution column, marked as the extraction rule wants it."""
        return self._mark.format(self._rows.row(problem).solution)

    def parse(self, text: str) -> Problem:
        """A question of the data, word for word."""
        return self._rows.parse(text)

    def longest(self, cell: str) -> Problem:
        """The longest question with the longest response."""
        return self._rows.longest(cell)


@dataclass(frozen=True)
class WorkedJsonLines(JsonLines):
    """The same with a column of gold scratchpads.

    Nothing here can check the steps of a scratchpad it has never seen: `read_scratchpad` knows the row's own and
    refuses every other, and there is nothing that `corrupt` could tell the consequences of.

    Attributes:
        scratchpad_column: the worked steps, as text.
    """

    scratchpad_column: str = "scratchpad"

    def _scratchpad(self, record: Record) -> str:
        return record.text(self.scratchpad_column)

    def gold_scratchpad(self, problem: Problem) -> str:
        """The row's own."""
        return self._rows.row(problem).scratchpad

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The row's answer, for the row's own scratchpad alone."""
        ours, theirs = self.gold_scratchpad(problem).split("\n"), scratchpad.split("\n")
        for number, line in enumerate(theirs, 1):
            if ours[number - 1 : number] != [line]:
                raise ScratchpadError(f"line {number}: {line[:60]!r} is not what the data has, and cannot be checked")
        if len(theirs) < len(ours):
            raise ScratchpadError(f"line {len(theirs) + 1}: missing; the data has {len(ours)} lines")
        return self._rows.row(problem).solution

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """None: what would follow from a change is not known."""
        return None

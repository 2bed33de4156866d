"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): school maths in words, with worked steps and integer answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import rng_of
from latentpad.tasks import Corruption, ScratchpadError
from latentpad.tasks.gsm8k_calculations import MARK, NUMBERS, number_in, read_lines, value_of
from latentpad.tasks.rows import MARKS, Record, Row, Rows, read_records
from latentpad.types import Problem

HUB, HUB_CONFIG = "openai/gsm8k", "main"
# Longer solutions are too few to be cells of their own.
MOST_STEPS = 8
# Small numbers may stand in a question as words (three, a dozen), and be taken for something else there.
MAX_WORD = 12
# Numbers that a calculation brings along by itself: hours, days, weeks, minutes, percent and the like.
BROUGHT_ALONG = frozenset(map(Fraction, (24, 30, 52, 60, 100, 365, 366, 1000)))


@dataclass(frozen=True, slots=True)
class _Mark:
    """A mark with the result after it: its line, its calculation, its value, and where both are in the line."""

    line: int
    calculation: str
    value: Fraction
    written: str
    result: str
    span: tuple[int, int]


def _marks(lines: list[str]) -> Iterator[_Mark]:
    for number, line in enumerate(lines):
        for mark in MARK.finditer(line):
            calculation, _, written = mark[1].rpartition("=")
            result = NUMBERS.match(line, mark.end())
            shown = "" if result is None else result[0]
            span = (mark.start(), mark.end() + len(shown))
            yield _Mark(number, calculation, value_of(written), written, shown, span)


def _spell(value: Fraction, like: str) -> str | None:
    """The value with as many decimals as `like` and its commas, if it has no more of them."""
    decimals = len(like.partition(".")[2])
    if value <= 0 or (value * 10**decimals).denominator != 1:
        return None
    return f"{int(value)}" if not decimals and "," not in like else f"{float(value):{',' * (',' in like)}.{decimals}f}"


def _follow(marks: list[_Mark], changed: int, value: Fraction, taken: frozenset[Fraction]) -> Fraction | None:
    """The last mark's value if this mark's is another and all later ones are worked on from it.

    None unless it is plain which numbers later on are this result: no other result and no number of the question is
    the same (`taken`), nor is it one that people write as a word or bring along.
    """
    values = [mark.value for mark in marks]
    instead: dict[Fraction, Fraction] = {}
    for place in range(changed, len(marks)):
        mark = marks[place]
        found = value if place == changed else value_of(mark.calculation, instead)
        if found == mark.value:
            continue
        if place == len(marks) - 1:
            return found
        if mark.value in taken or mark.value <= MAX_WORD or values.count(mark.value) > 1:
            return None
        instead[mark.value] = found
    return None


@dataclass(frozen=True)
class GSM8K:
    """Rows as published, in cells by the lines of their worked steps: `steps=2` to `steps=7`, and `steps=8+`.

    The published test rows are the test split; validation is 5% of the published train rows, by hash. The gold answer
    stands after `####`, without its thousands commas. For splits see `Rows`.

    Attributes:
        path: of local files, `{train: ..., test: ...}` as published.
        hub: the dataset's name on the hub; `openai/gsm8k` where neither is given.
        calculator_marks: keep the calculator's marks (`<<48/2=24>>`) in the gold scratchpads.
        extraction: how the answer is marked after the scratchpad; `hash` is GSM8K's own `#### 18`.
    """

    path: dict[str, str] | None = None
    hub: str | None = None
    calculator_marks: bool = True
    extraction: Literal["tags", "boxed", "answer", "hash"] = "tags"

    def __post_init__(self) -> None:
        """Read and check all rows now, not in the middle of a run."""
        _ = self._rows

    @cached_property
    def _rows(self) -> Rows:
        hub = HUB if self.path is None and self.hub is None else self.hub
        records = read_records(self.path, hub, HUB_CONFIG)
        return Rows("gsm8k", map(self._row, records), self.grader, self.grader_options)

    def _row(self, record: Record) -> Row:
        body, mark, answer = record.text("answer").rpartition("#### ")
        if not mark:
            raise RecipeError(f"{record.where}: no '#### ' with the answer after it; expected GSM8K as published")
        lines = [line.rstrip() for line in body.split("\n") if line.strip()]
        answer = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", answer.strip())
        return Row(
            where=record.where,
            split=record.split,
            cell=f"steps={len(lines)}" if len(lines) < MOST_STEPS else f"steps={MOST_STEPS}+",
            question=record.text("question").strip(),
            answer=answer,
            solution=answer,
            scratchpad="\n".join(lines),
        )

    @property
    def grader(self) -> str:
        """Exact numbers: `18.00` is 18."""
        return "number"

    @property
    def grader_options(self) -> dict[str, Any]:
        """Commas between thousands are fine."""
        return {"thousands": True, "extraction": self.extraction}

    @property
    def cells(self) -> tuple[str, ...]:
        """Fewest steps first."""
        return self._rows.cells

    @property
    def alphabet(self) -> str:
        """Every character of the data and of the mark."""
        return "".join(sorted({*self._rows.alphabet, *MARKS[self.extraction].format("")}))

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
        """The gold answer, marked as the extraction rule wants it."""
        return MARKS[self.extraction].format(problem.answer)

    def parse(self, text: str) -> Problem:
        """A question of the data, word for word."""
        return self._rows.parse(text)

    def longest(self, cell: str) -> Problem:
        """The longest question with the longest response."""
        return self._rows.longest(cell)

    def _strip(self, text: str) -> str:
        return text if self.calculator_marks else MARK.sub("", text)

    def gold_scratchpad(self, problem: Problem) -> str:
        """The published steps, without empty lines."""
        return self._strip(self._rows.row(problem).scratchpad)

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The number that the steps end in. All calculations must hold; where their numbers come from is not checked.

        A published scratchpad that calculates with units or unknowns (`3 boxes * 4 = 12`), or does not end in the
        result of a calculation, is refused too: nobody else's with the same fault would be told from a wrong one.
        """
        return read_lines(scratchpad.split("\n")).text

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """One marked result changed by one, in the mark and after it.

        None where the scratchpad cannot be read, or no result can be changed so that it is plain what follows.
        """
        lines = self._rows.row(problem).scratchpad.split("\n")
        try:
            end = read_lines(lines)
            if not end.marked or end.value != number_in(problem.answer):
                return None
        except ScratchpadError:
            return None
        marks = list(_marks(lines))
        choices = [(place, change) for place in range(len(marks)) for change in (1, -1)]
        rng_of("gsm8k", "corrupt", problem.id, name).shuffle(choices)
        asked = BROUGHT_ALONG | {number_in(number) for number in NUMBERS.findall(problem.question)}
        found = (self._corruption(lines, marks, place, change, asked) for place, change in choices)
        return next((c for c in found if c is not None and self._is_refused(problem, c)), None)

    def _is_refused(self, problem: Problem, corruption: Corruption) -> bool:
        try:
            self.read_scratchpad(problem, corruption.scratchpad)
        except ScratchpadError:
            return True
        return False

    def _corruption(
        self, lines: list[str], marks: list[_Mark], place: int, change: int, asked: frozenset[Fraction]
    ) -> Corruption | None:
        mark, value = marks[place], marks[place].value + change
        is_last_of_line = place + 1 == len(marks) or marks[place + 1].line != mark.line
        answer = _follow(marks, place, value, asked)
        written, result = _spell(value, mark.written), _spell(value, mark.result)
        spelled = None if answer is None else _spell(answer, "" if answer.denominator == 1 else "0.00")
        if not is_last_of_line or written is None or result is None or spelled is None or "/" in mark.written:
            return None
        before, after = lines[mark.line][: mark.span[0]], lines[mark.line][mark.span[1] :]
        line = f"{before}<<{mark.calculation}={written}>>{result}{after}"
        prefix = "\n".join([*lines[: mark.line], line])
        return Corruption(self._strip("\n".join([prefix, *lines[mark.line + 1 :]])), self._strip(prefix), spelled)

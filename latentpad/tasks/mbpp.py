"""Predicting what a real program returns (MBPP), with its execution trace as scratchpad, as in Nye et al. 2021."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import rng_of
from latentpad.tasks import SPLITS, Corruption
from latentpad.tasks.mbpp_rows import MbppRow, call_and_value, read_mbpp
from latentpad.tasks.rows import Row, Rows, canonical_text
from latentpad.tasks.tracing.cache import default_folder, traces_of
from latentpad.tasks.tracing.couplets import check_couplets, spell_step, spell_trace
from latentpad.tasks.tracing.execution import (
    MAX_CHARACTERS,
    OK,
    Program,
    Trace,
    python_text,
    settable,
    step_through,
    trace_changed,
)
from latentpad.types import Problem
from reward import Outcome, grade

# Appendix C of the paper; its [BEGIN] and [DONE] are our tags.
_NYE = "Consider the following Python function:\n\n{program}\n\nWhat is the execution trace?"
# How many changes of a trace are tried before it is said to have none that changes the answer.
_TRIES = 8
_PRINTS = (
    "import io, sys\nsys.stdout = io.StringIO()\n{program}\n"
    "sys.stdout = sys.__stdout__\n{speller}\nprint(python_text(output))\n"
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One test of one row (numbered from 0), the program that makes its call, and the trace of it."""

    row: MbppRow
    number: int
    program: Program
    trace: Trace


@dataclass(frozen=True)
class Mbpp:
    """What does the call return? One problem a test of a row, in cells by the number of executed lines.

    The gold answer and the gold scratchpad are made by executing the program in the sandbox. Splits are as published:
    test is task 11 to 510, validation to 600, train to 974. Left out of every split, and counted by `coverage`: traces
    that are too long, tests whose program does not return the value that they expect or does not repeat, and (but for
    one) problems with the same program and call up to names and spelling.

    Attributes:
        path: a local JSONL file with the published columns.
        hub: the dataset's name on the hub; `google-research-datasets/mbpp` where neither is given.
        spelling: `nye` (appendix C of the paper: `state:` as JSON after every `line:`), or `compact` (the program
            alone; after every line what has changed).
        max_trace_characters: the length filter. The paper's is 512 tokens; this default takes three characters a token.
        step_bounds: the cells; `[5, 10]` are `steps=1-5`, `steps=6-10` and `steps=11+`.
        cache: folder for traces between starts; `~/.cache/latentpad/traces` if it is not given.
    """

    path: str | None = None
    hub: str | None = None
    spelling: Literal["nye", "compact"] = "nye"
    max_trace_characters: int = 1536
    step_bounds: tuple[int, ...] = (5, 10)
    cache: str | None = None

    def __post_init__(self) -> None:
        """Read all rows and have their traces now, not in the middle of a run."""
        if not 1 <= self.max_trace_characters <= MAX_CHARACTERS:
            got = self.max_trace_characters
            raise RecipeError(f"task.max_trace_characters: got {got}; expected 1 to {MAX_CHARACTERS}")
        if list(self.step_bounds) != sorted(set(self.step_bounds)) or min(self.step_bounds, default=1) < 1:
            raise RecipeError(f"task.step_bounds: got {list(self.step_bounds)}; expected rising numbers from 1")
        _ = self._rows

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """All tests of all rows, with whatever came of them."""
        found = []
        for row in read_mbpp(self.path, self.hub):
            for number, test in enumerate(row.tests):
                sides = call_and_value(test)
                program = Program(f"{row.whole}\n\noutput = {sides[0]}", f"output == ({sides[1]})") if sides else None
                found.append((row, number, program))
        programs = [program for _, _, program in found if program is not None]
        folder = default_folder() if self.cache is None else Path(self.cache)
        traces = dict(zip(programs, traces_of(programs, folder), strict=True))
        return tuple(
            Instance(row, number, Program(""), Trace("no test of the form CALL == VALUE"))
            if program is None
            else Instance(row, number, program, traces[program])
            for row, number, program in found
        )

    @cached_property
    def _sorted_out(self) -> tuple[list[Instance], Counter[tuple[str, str]]]:
        """What is kept, and how often each split lost one for which reason."""
        kept: list[Instance] = []
        lost: Counter[tuple[str, str]] = Counter()
        # By both names that a problem has: its form, and for `parse` its question up to white space.
        seen: dict[str, str] = {}
        order = {split: place for place, split in enumerate(("test", "validation", "train", "prompt"))}
        for instance in sorted(self.instances, key=lambda i: (order[i.row.split], i.row.task_id, i.number)):
            names = (instance.trace.form, canonical_text(instance.program.source))
            first = next((seen[name] for name in names if name in seen), None)
            if reason := self._reason(instance, first):
                lost[instance.row.split, reason] += 1
            else:
                kept.append(instance)
                seen |= dict.fromkeys(names, instance.row.split)
        return kept, lost

    def _reason(self, instance: Instance, same_in: str | None) -> str:
        """Why a test is no problem; nothing if it is one."""
        split = instance.row.split
        if split == "prompt":
            return "an example of few-shot prompts"
        if instance.trace.end != OK:
            return instance.trace.end
        if len(self._scratchpad(instance)) > self.max_trace_characters:
            return "longer than max_trace_characters"
        if same_in is not None:
            return "the same as another" if same_in == split else f"the same as one in {same_in}"
        return ""

    @cached_property
    def _by_question(self) -> dict[str, Instance]:
        return {self._question(instance): instance for instance in self._sorted_out[0]}

    @cached_property
    def _rows(self) -> Rows:
        rows = [self._row(instance) for instance in self._sorted_out[0]]
        if not rows:
            raise RecipeError("task: no row is left; max_trace_characters may be too small: " + self.coverage()[-1])
        return Rows("mbpp", rows, self.grader, self.grader_options)

    def _row(self, instance: Instance) -> Row:
        value = instance.trace.value
        where = f"{instance.row.where} test {instance.number + 1}"
        cell = self._cell(len(instance.trace.steps))
        question, scratchpad = self._question(instance), self._scratchpad(instance)
        return Row(where, instance.row.split, cell, question, value, value, scratchpad)

    def _cell(self, steps: int) -> str:
        low = 1
        for high in self.step_bounds:
            if steps <= high:
                return f"steps={low}-{high}"
            low = high + 1
        return f"steps={low}+"

    def _question(self, instance: Instance) -> str:
        source = instance.program.source
        return _NYE.format(program=source) if self.spelling == "nye" else source

    def _scratchpad(self, instance: Instance) -> str:
        return spell_trace(instance.trace.steps, self.spelling)

    def _of(self, problem: Problem) -> Instance:
        return self._by_question[self._rows.row(problem).question]

    def coverage(self) -> tuple[str, ...]:
        """For each split, how many tests there are, how many became problems, and what became of the others."""
        kept, lost = self._sorted_out
        lines = []
        for split in SPLITS:
            mine = sum(instance.row.split == split for instance in kept)
            reasons = sorted(((n, reason) for (s, reason), n in lost.items() if s == split), reverse=True)
            shown = "; ".join(f"{n} {reason}" for n, reason in reasons)
            total = mine + sum(n for n, _ in reasons)
            lines.append(f"mbpp {split}: {mine} of {total} tests became problems ({shown or 'none left out'})")
        return tuple(lines)

    @property
    def grader(self) -> str:
        """The value, read as a literal."""
        return "program_output"

    @property
    def grader_options(self) -> dict[str, Any]:
        """Type by type; floats within a tolerance, sets and dictionaries in any order."""
        return {"mode": "value"}

    @property
    def cells(self) -> tuple[str, ...]:
        """Fewest steps first."""
        return self._rows.cells

    @property
    def alphabet(self) -> str:
        """Every character of programs, traces and answers, with what a corrupted trace may need."""
        return "".join(sorted({*self._rows.alphabet, *"-0123456789"}))

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless there are problems of this cell."""
        self._rows.check_cell(cell)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """A problem, each as likely as any other."""
        return self._rows.draw(split, cell, name)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Different problems, until there are no more."""
        return self._rows.distinct(split, cell, count)

    def canonical(self, problem: Problem) -> str:
        """The program and its call up to white space, comments, quotes and names, hashed."""
        return self._of(problem).trace.form

    def solution(self, problem: Problem) -> str:
        """The gold answer."""
        return problem.answer

    def program(self, problem: Problem) -> str:
        """The program without what it prints itself, then its value printed as gold answers are spelled."""
        return _PRINTS.format(program=self._of(problem).program.source, speller=inspect.getsource(python_text))

    def parse(self, text: str) -> Problem:
        """A question of the data."""
        return self._rows.parse(text)

    def longest(self, cell: str) -> Problem:
        """The longest question with the longest response."""
        return self._rows.longest(cell)

    def gold_scratchpad(self, problem: Problem) -> str:
        """The trace."""
        return self._rows.row(problem).scratchpad

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The value of `output`, if the scratchpad is the trace that a run of the program gives now.

        That run takes the second route (see `stepper`): no tracing hook, its own spelling of values, its own reader of
        lines. What it shares with the writer is the interpreter and the sandbox. It tells a right trace from a wrong
        one; it does not say whether a wrong line follows from the wrong lines before it.
        """
        trace = _stepped(self._of(problem).program)
        check_couplets(scratchpad.split("\n"), trace.steps, self.spelling)
        return trace.value

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """One more or one less in an integer that a step has just set (at a call: a parameter); then executed on.

        None where no such change of the few that are tried lets the program end with another value.
        """
        program, gold = self._of(problem).program, self.gold_scratchpad(problem).split("\n")
        choices = [(change, by) for change in _settable(program) for by in (1, -1)]
        rng_of("mbpp", "corrupt", problem.id, name).shuffle(choices)
        for change, by in choices[:_TRIES]:
            changed = trace_changed(program, type(change)(change.step, change.name, change.value + by))
            if changed.end != OK or self._is_right(changed.value, problem.answer):
                continue
            steps = changed.steps
            before = steps[change.step - 1].state if change.step else {}
            line = spell_step(steps[change.step], before, self.spelling)[-1]
            place = 2 * change.step + 2 if self.spelling == "nye" else change.step
            if not gold[place].startswith(line):  # in `compact`, the value before is not shown
                prefix = "\n".join([*gold[:place], line])
                return Corruption("\n".join([prefix, *gold[place + 1 :]]), prefix, changed.value)
        return None

    def _is_right(self, answer: str, gold: str) -> bool:
        return grade(self.grader, answer, gold, **self.grader_options).outcome is Outcome.CORRECT


@lru_cache(maxsize=4096)
def _stepped(program: Program) -> Trace:
    return step_through(program)


@lru_cache(maxsize=4096)
def _settable(program: Program) -> tuple[Any, ...]:
    return tuple(settable(program))

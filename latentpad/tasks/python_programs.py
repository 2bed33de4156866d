"""Predicting what a small Python program computes, with the execution trace of Nye et al. 2021 as scratchpad."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count as count_from
from typing import TYPE_CHECKING, Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of, seed_of
from latentpad.tasks import Corruption, check_split, split_of
from latentpad.tasks.programs import ProgramError, Step, Style, draw_body, run, written
from latentpad.tasks.traces import read_compact, read_nye
from latentpad.types import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_START = 9
_STYLES = {
    "compact": Style(variable="a", counters=("b", "c"), spaced=False, indent=" "),
    "nye": Style(variable="v0", counters=tuple(f"v{k}" for k in range(1, 10)), spaced=True, indent="  "),
}
# Appendix C of the paper; its [BEGIN] and [DONE] are our tags.
_NYE = "Consider the following Python function:\n\ndef f(v0):\n{body}\n  return v0\n\noutput = f({start})\n\n{ask}"
_ASK = "What is the execution trace?"
_NYE_QUESTION = re.compile(
    r"[^\n]*\n\ndef f\(v0\):\n(?P<body>(?:  [^\n]*\n)+)  return v0\n\noutput = f\((?P<start>\d+)\).*", re.S
)
_FUNCTION = '"f": "<callable_object f>"'
# Draws that tell the longest trace of a cell; repeats in a row that say that a cell is exhausted.
_SURVEY, _EXHAUSTED = 400, 1000


@dataclass(frozen=True)
class Source:
    """A program without its frame: what the variable starts as, and the lines after that."""

    start: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class PythonPrograms:
    """What is the variable in the end? In cells `steps=A-B`: how many lines are executed after it is first set.

    Programs are drawn by the grammar in `programs`. A problem belongs to a split by the hash of its program, its
    variables renamed in order. A program whose trace is longer than the longest of 400 of its cell is drawn again.

    Attributes:
        steps: the cells that are trained on, such as `1-3`.
        spelling: `nye` (appendix C of the paper to the letter: `state:` as JSON after every `line:`), or `compact`,
            which a small model on a CPU can learn (`a=6` ... `print(a)`; the trace's lines end in `#` and the values).
        max_value: programs in which a variable passes this are drawn again.
        max_constant: what is added, subtracted or compared with is at most this (2 in the paper).
    """

    steps: tuple[str, ...]
    spelling: Literal["compact", "nye"] = "compact"
    max_value: int = 99
    max_constant: int = 2

    def __post_init__(self) -> None:
        """Refuse cells that cannot be."""
        if not self.steps or len(set(self.steps)) != len(self.steps) or self.max_value < MAX_START:
            raise RecipeError(
                f"task.steps: got {list(self.steps)} with max_value {self.max_value}; expected different ranges such "
                f"as '1-3', and max_value of {MAX_START} or more"
            )
        for cell in self.cells:
            self.check_cell(cell)

    @property
    def grader(self) -> str:
        """The program's output, as text."""
        return "program_output"

    @property
    def grader_options(self) -> dict[str, Any]:
        """Lines must be equal."""
        return {"mode": "lines"}

    @property
    def cells(self) -> tuple[str, ...]:
        """`steps=A-B` for each trained range, as the recipe orders them."""
        return tuple(f"steps={part}" for part in self.steps)

    @property
    def alphabet(self) -> str:
        """What programs and traces are spelled with."""
        common = "0123456789+-*=<>:\nifelswh"
        if self.spelling == "compact":
            return f"{common} abcprnt()#,"
        return "".join(sorted({*common, *_NYE, *_ASK, *_FUNCTION, *'state: line: {"v0": 1, "output": 1}'} - {*"B[]"}))

    @property
    def _style(self) -> Style:
        return _style(self.spelling, self.max_constant)

    def _range(self, cell: str) -> tuple[int, int]:
        match = re.fullmatch(r"steps=([1-9][0-9]?)-([1-9][0-9]?)", cell)
        if match is None or int(match[1]) > int(match[2]):
            raise RecipeError(f"cell {cell!r}: expected steps=A-B with A up to B from 1 to 99, such as 'steps=4-6'")
        return int(match[1]), int(match[2])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `steps=A-B`."""
        self._range(cell)

    def _question(self, source: Source) -> str:
        if self.spelling == "compact":
            return "\n".join([f"a={source.start}", *source.lines, "print(a)"])
        body = "\n".join(f"  {line}" for line in source.lines)
        return _NYE.format(body=body, start=source.start, ask=_ASK)

    def _source(self, question: str) -> Source | None:
        """The program in a question, or None if there is none."""
        if self.spelling == "nye":
            match = _NYE_QUESTION.fullmatch(question)
            return match and Source(int(match["start"]), tuple(line[2:] for line in match["body"].splitlines()))
        first, *rest = question.split("\n")
        match = re.fullmatch(r"a=(\d+)", first)
        return match and Source(int(match[1]), tuple(rest[:-1] if rest and rest[-1] == "print(a)" else rest))

    def _known(self, problem: Problem) -> Source:
        source = self._source(problem.question)
        assert source is not None, problem.question
        return source

    def _run(self, source: Source, change: tuple[int, int] = (0, 0)) -> list[Step]:
        return run(source.lines, {self._style.variable: source.start}, max_value=self.max_value, change=change)

    def _problem(self, source: Source, split: str, steps: list[Step], cell: str) -> Problem:
        question = self._question(source)
        return Problem(
            id=f"python_programs/{split}/{seed_of(self._canonical(source)):016x}",
            task="python_programs",
            split=split,
            cell=cell,
            question=question,
            answer=str(steps[-1].state[self._style.variable]),
        )

    def _canonical(self, source: Source) -> str:
        text = "\n".join([f"{self._style.variable}={source.start}", *source.lines])
        names = list(dict.fromkeys(re.findall(r"\b(?:v\d|[abc])\b", text)))
        text = re.sub(r"\b(?:v\d|[abc])\b", lambda name: "abc"[names.index(name[0])], text)
        text = re.sub(r"(?m)^ +", lambda indent: " " * (len(indent[0]) // len(self._style.indent)), text)
        return re.sub(r"(?<=\S) (?=[-+*=<>0-9])", "", text)

    def canonical(self, problem: Problem) -> str:
        """The program in the compact spelling, its variables renamed in order."""
        return self._canonical(self._known(problem))

    def solution(self, problem: Problem) -> str:
        """The gold answer."""
        return problem.answer

    def program(self, problem: Problem) -> str:
        """A whole program that prints the answer, to be executed."""
        if self.spelling == "compact":
            return problem.question
        _, _, rest = problem.question.partition("\n\n")
        return rest.removesuffix(_ASK).rstrip() + "\nprint(output)"

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """A program drawn until its steps, its split and the length of its trace are right."""
        check_split(split)
        bound = _survey(self, cell)[0]
        for source, steps in self._candidates(cell, rng_names=("python_programs", split, cell, name)):
            if self._split_of(source) == split and self._length(source, steps) <= bound:
                return self._problem(source, split, steps, cell)
        raise AssertionError("candidates never end")

    def _split_of(self, source: Source) -> str:
        return split_of("python_programs", self._canonical(source))

    def _candidates(self, cell: str, rng_names: tuple[str, ...]) -> Iterator[tuple[Source, list[Step]]]:
        """Programs of the cell, without end."""
        low, high = self._range(cell)
        rng = rng_of(*rng_names)
        while True:
            start = rng.randint(0, MAX_START)
            source = Source(start, tuple(draw_body(rng, rng.randint(1, high), self._style)))
            try:
                steps = self._run(source)
            except ProgramError:
                continue
            if low <= len(steps) <= high:
                yield source, steps

    def _length(self, source: Source, steps: list[Step]) -> int:
        """Characters of the trace and the answer."""
        return len(self._trace(source, steps)) + len(str(steps[-1].state[self._style.variable]))

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Different programs; fewer where thousands of draws in a row bring nothing new."""
        check_split(split)
        found: dict[str, Problem] = {}
        missed = 0
        for index in count_from():
            problem = self.draw(split, cell, name_of("distinct", index))
            missed = missed + 1 if self.canonical(problem) in found else 0
            found.setdefault(self.canonical(problem), problem)
            if len(found) >= count or missed > _EXHAUSTED:
                break
        return list(found.values())

    def parse(self, text: str) -> Problem:
        """A program in this spelling, its lines apart by line breaks or `;`."""
        question = text if "\n" in text else text.replace(";", "\n")
        source = self._source(question.strip())
        try:
            if source is None or not source.lines:
                raise ProgramError("no such program")
            steps = self._run(source)
        except ProgramError as error:
            example = "'a=6;a*=2;a-=1'" if self.spelling == "compact" else "def f(v0): ... output = f(6)"
            raise RecipeError(f"problem {text[:80]!r}: {error}; expected a program such as {example}") from error
        ranges = {cell: self._range(cell) for cell in self.cells}
        mine = [cell for cell, (low, high) in ranges.items() if low <= len(steps) <= high]
        return self._problem(source, "typed", steps, [*mine, f"steps={len(steps)}-{len(steps)}"][0])

    def longest(self, cell: str) -> Problem:
        """The problem with the longest trace among those that tell the bound; none that is drawn has a longer one."""
        _, source, steps = _survey(self, cell)
        return self._problem(source, "longest", steps, cell)

    def gold_scratchpad(self, problem: Problem) -> str:
        """The trace."""
        source = self._known(problem)
        return self._trace(source, self._run(source))

    def _trace(self, source: Source, steps: list[Step]) -> str:
        if self.spelling == "compact":
            first = f"a={source.start}#{source.start}"
            return "\n".join([first, *(f"{s.line.strip()}#{','.join(map(str, s.state.values()))}" for s in steps)])
        lines = ["state: {}", "line: def f(v0):", f"state: {{{_FUNCTION}}}", f"line: output = f({source.start})"]
        lines.append(f"state: {json.dumps({'v0': source.start})}")
        for step in steps:
            lines += [f"line:   {step.line}", f"state: {json.dumps(step.state)}"]
        output = steps[-1].state["v0"]
        return "\n".join([*lines, "line:   return v0", f'state: {{{_FUNCTION}, "output": {output}}}'])

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The variable in the last state, every step checked against the program's syntax tree."""
        read = read_compact if self.spelling == "compact" else read_nye
        return str(read(self.program(problem).split("\n"), scratchpad.split("\n")))

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """One more or one less in the variable that a step has just set; the program then goes on from there."""
        source = self._known(problem)
        steps = self._run(source)
        lines = self._trace(source, steps).split("\n")
        rng = rng_of("python_programs", "corrupt", problem.id, name)
        places = [(i, d) for i, step in enumerate(steps) if written(step) is not None for d in (1, -1)]
        rng.shuffle(places)
        for place, change in places:
            try:
                answer = str(self._run(source, (place + 1, change))[-1].state[self._style.variable])
            except ProgramError:
                continue
            if answer == problem.answer:
                continue
            variable = str(written(steps[place]))
            state = steps[place].state | {variable: steps[place].state[variable] + change}
            wrong = self._trace(source, [*steps[:place], Step(steps[place].line, state), *steps[place + 1 :]]).split(
                "\n"
            )
            at = next(i for i, (old, new) in enumerate(zip(lines, wrong, strict=True)) if old != new)
            return Corruption("\n".join([*lines[:at], wrong[at], *lines[at + 1 :]]), "\n".join(wrong[: at + 1]), answer)
        return None


@lru_cache
def _style(spelling: str, max_constant: int) -> Style:
    return replace(_STYLES[spelling], max_constant=max_constant)


@lru_cache(maxsize=256)
def _survey(task: PythonPrograms, cell: str) -> tuple[int, Source, list[Step]]:
    """The longest trace among the first programs of a cell, whatever their split."""
    candidates = task._candidates(cell, ("python_programs", "survey", cell))
    drawn = [next(candidates) for _ in range(_SURVEY)]
    source, steps = max(drawn, key=lambda pair: task._length(*pair))
    return task._length(source, steps), source, steps

"""Countdown: reach a target from a few numbers, each used exactly once, with + - * / and whole positive results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from itertools import count as count_from
from typing import Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of
from latentpad.tasks import Corruption, check_split, split_of
from latentpad.tasks.countdown_steps import (
    MOST,
    Numbers,
    Step,
    expression,
    gold_lines,
    next_steps,
    reachable,
    read_lines,
    solve,
)
from latentpad.types import Problem

MOST_NUMBERS = 6
_COMPACT = re.compile(r"(?P<numbers>[0-9]{1,4}(?: *, *[0-9]{1,4})*) *: *(?P<target>[0-9]{1,4})")
_WORDS = re.compile(r"Make (?P<target>[0-9]{1,4}) from (?P<numbers>[0-9]{1,4}(?:, [0-9]{1,4})*): .*")
# Draws in a row that bring nothing new, after which a cell is enumerated.
_STALLED = 300


@dataclass(frozen=True)
class Countdown:
    """`4,6,7,8:24` -> `8*((6+4)-7)`, in cells `numbers=k`. Any expression that reaches the target is right.

    Problems are made by working at random, so that each has a solution whose results are all whole and positive. One
    belongs to a split by the hash of its numbers, whatever their order, and its target.

    Attributes:
        numbers: how many numbers there are, in the cells that are trained on.
        largest: numbers are from 1 to this.
        largest_target: targets are from 1 to this.
        spelling: `compact`, or `words`, which says what to do.
    """

    numbers: Sequence[int]
    largest: int = 20
    largest_target: int = 100
    spelling: Literal["compact", "words"] = "compact"

    def __post_init__(self) -> None:
        """Refuse cells that cannot be, or have too few problems to be split."""
        different = len(set(self.numbers)) == len(self.numbers) > 0
        if not different or not all(2 <= k <= MOST_NUMBERS for k in self.numbers):
            raise RecipeError(
                f"task.numbers: got {list(self.numbers)}; expected different whole numbers from 2 to {MOST_NUMBERS}"
            )
        for name, value, most in (("largest", self.largest, 999), ("largest_target", self.largest_target, MOST)):
            if not 10 <= value <= most:
                raise RecipeError(f"task.{name}: got {value}; expected a whole number from 10 to {most}")

    @property
    def grader(self) -> str:
        """The target is reached with all the numbers."""
        return "expression"

    @property
    def grader_options(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def cells(self) -> tuple[str, ...]:
        """`numbers=k` for each trained k."""
        return tuple(f"numbers={k}" for k in sorted(self.numbers))

    @property
    def alphabet(self) -> str:
        """Digits and signs, and the words if they are spelled."""
        words = self._spell((1,), 1) if self.spelling == "words" else ""
        return "".join(sorted({*"0123456789+-*/=:,()\n", *words}))

    def _count(self, cell: str) -> int:
        match = re.fullmatch(rf"numbers=([2-{MOST_NUMBERS}])", cell)
        if match is None:
            raise RecipeError(f"cell {cell!r}: expected numbers=K with K from 2 to {MOST_NUMBERS}, such as 'numbers=4'")
        return int(match[1])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `numbers=K`."""
        self._count(cell)

    def _spell(self, numbers: Sequence[int], target: int) -> str:
        if self.spelling == "compact":
            return f"{','.join(map(str, numbers))}:{target}"
        return (
            f"Make {target} from {', '.join(map(str, numbers))}: write one expression that uses each number exactly "
            "once, with + - * / and parentheses, and nothing else."
        )

    def _problem(self, numbers: Sequence[int], target: int, split: str) -> Problem:
        key = self._key(numbers, target)
        gold = json.dumps({"target": target, "numbers": sorted(numbers)})
        question = self._spell(numbers, target)
        return Problem(f"countdown/{split}/{key}", "countdown", split, f"numbers={len(numbers)}", question, gold)

    def _shuffled(self, numbers: Sequence[int], target: int, split: str) -> Problem:
        """The numbers in an order that the puzzle alone decides, so that an id has one question."""
        order = rng_of("countdown", "order", self._key(numbers, target))
        return self._problem(order.sample(sorted(numbers), len(numbers)), target, split)

    def _key(self, numbers: Sequence[int], target: int) -> str:
        return f"{','.join(map(str, sorted(numbers)))}:{target}"

    def _puzzle(self, problem: Problem) -> tuple[Numbers, int]:
        match = (_COMPACT if self.spelling == "compact" else _WORDS).fullmatch(problem.question)
        assert match is not None
        return tuple(sorted(map(int, match["numbers"].split(",")))), int(match["target"])

    def _steps(self, problem: Problem) -> tuple[Step, ...]:
        steps = solve(*self._puzzle(problem))
        assert steps is not None, problem.id
        return steps

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """Numbers and operations at random, drawn again until the target is small enough and of the split."""
        check_split(split)
        count = self._count(cell)
        rng = rng_of("countdown", self.largest, self.largest_target, split, cell, name)
        while True:
            numbers = [rng.randint(1, self.largest) for _ in range(count)]
            left = tuple(sorted(numbers))
            while len(left) > 1:
                left = rng.choice([after for _, after in next_steps(left)])
            if left[0] <= self.largest_target and split_of("countdown", self._key(numbers, left[0])) == split:
                return self._shuffled(numbers, left[0], split)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Different puzzles: as they are drawn, and where that brings nothing new, all that are left."""
        check_split(split)
        found: dict[str, Problem] = {}
        stalled = 0
        for index in count_from():
            if len(found) >= count or stalled == _STALLED:
                break
            problem = self.draw(split, cell, name_of("distinct", index))
            stalled = 0 if found.setdefault(self.canonical(problem), problem) is problem else stalled + 1
        if len(found) < count:
            every = [self._shuffled(*puzzle, split) for puzzle in self._enumerate(split, cell)]
            rng_of("countdown", split, cell, "rest").shuffle(every)
            found = {**{self.canonical(problem): problem for problem in [*found.values(), *every]}, **found}
        return list(found.values())[: max(count, 0)]

    def _enumerate(self, split: str, cell: str) -> Iterator[tuple[Numbers, int]]:
        for numbers in combinations_with_replacement(range(1, self.largest + 1), self._count(cell)):
            for target in sorted(reachable(numbers)):
                if target <= self.largest_target and split_of("countdown", self._key(numbers, target)) == split:
                    yield numbers, target

    def canonical(self, problem: Problem) -> str:
        """The numbers, smallest first, and the target."""
        return self._key(*self._puzzle(problem))

    def solution(self, problem: Problem) -> str:
        """An expression found by search."""
        return expression(self._puzzle(problem)[0], self._steps(problem))

    def parse(self, text: str) -> Problem:
        """`4,6,7,8:24`, or the question in words."""
        match = _COMPACT.fullmatch(text.strip()) or _WORDS.fullmatch(text.strip())
        numbers = [] if match is None else [int(number) for number in match["numbers"].split(",")]
        if match is None or not 2 <= len(numbers) <= MOST_NUMBERS or 0 in (*numbers, int(match["target"])):
            raise RecipeError(
                f"problem {text[:80]!r}: expected 2 to {MOST_NUMBERS} numbers and a target, all from 1 to {MOST}, "
                "such as '4,6,7,8:24'"
            )
        if solve(tuple(sorted(numbers)), int(match["target"])) is None:
            raise RecipeError(f"problem {text[:80]!r}: no solution has whole positive results all the way")
        return self._problem(numbers, int(match["target"]), "typed")

    def longest(self, cell: str) -> Problem:
        """Four digits in every place: longer than any number or result can be."""
        count = self._count(cell)
        return self._problem([1000] * count, 1000 * count, "longest")

    def gold_scratchpad(self, problem: Problem) -> str:
        """The steps of the solution."""
        return "\n".join(gold_lines(self._puzzle(problem)[0], self._steps(problem)))

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The expression that the steps make."""
        return read_lines(*self._puzzle(problem), scratchpad.split("\n"))

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """One result off by up to three, from which the target can still be reached; None where there is none."""
        (numbers, target), steps = self._puzzle(problem), self._steps(problem)
        lines = gold_lines(numbers, steps)
        choices = [(place, change) for place in range(len(steps) - 1) for change in (-3, -2, -1, 1, 2, 3)]
        rng_of("countdown", "corrupt", problem.id, name).shuffle(choices)
        for place, change in choices:
            a, sign, b, result = steps[place]
            changed = [*steps[:place], (a, sign, b, result + change)]
            line = gold_lines(numbers, changed)[-1]
            left = tuple(map(int, line.partition(":")[2].split(",")))
            rest = solve(left, target) if min(left) > 0 and max(left) <= MOST else None
            if rest is not None:
                prefix = "\n".join([*lines[:place], line])
                answer = expression(numbers, [*changed, *rest])
                return Corruption("\n".join([prefix, *lines[place + 1 :]]), prefix, answer)
        return None

"""The sum of d digits modulo m, with all its running sums for a scratchpad; of bits modulo 2 it is their parity.

The cheapest task where a scratchpad provably matters: see Tsilivis et al. 2025 (arXiv 2510.11495) on parity.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import rng_of
from latentpad.tasks import Corruption, ScratchpadError, check_split, split_of
from latentpad.tasks.order import shuffled
from latentpad.types import Problem

MAX_LENGTH = 999
# A cell with no more problems than this has too few to be split: all splits share it.
SHARED = 100


def running_sums(digits: str, modulus: int) -> str:
    """The sum so far after each digit, modulo `modulus`.

    >>> running_sums("3719", 10), running_sums("1011", 2)
    ('3010', '1101')
    """
    return "".join(str(total % modulus) for total in accumulate(map(int, digits)))


def read_sums(digits: str, sums: str, modulus: int) -> str:
    """The last of the running sums, each checked by its difference from the one before. Raises `ScratchpadError`."""
    if len(sums) != len(digits) or not sums.isascii() or not sums.isdigit():
        raise ScratchpadError(f"line 1: {sums[:60]!r} is not one digit for each of the {len(digits)} of the question")
    for place, digit in enumerate(digits):
        before = int(sums[place - 1]) if place else 0
        if int(sums[place]) >= modulus or (int(sums[place]) - before - int(digit)) % modulus:
            raise ScratchpadError(f"line 1: place {place + 1} is {sums[place]}; {digit} does not lead there")
    return sums[-1]


def corrupted(sums: str, modulus: int, *names: str) -> Corruption:
    """One running sum changed to another; worked on from there, the answer is off by as much."""
    rng = rng_of(*names)
    place, change = rng.randrange(len(sums)), rng.randrange(1, modulus)
    prefix = sums[:place] + str((int(sums[place]) + change) % modulus)
    return Corruption(prefix + sums[place + 1 :], prefix, str((int(sums[-1]) + change) % modulus))


@dataclass(frozen=True)
class RunningSum:
    """`3719` -> `0`: the sum of d digits below m, modulo m, in cells `length=d`. The scratchpad is `3010`.

    A problem belongs to a split by the hash of its digits; a cell of at most 100 problems is shared by all splits.
    With modulus 2 the task is called `parity`: `1011` -> `1`, scratchpad `1101`.

    Attributes:
        lengths: numbers of digits that are trained on.
        modulus: m, from 2 to 10.
    """

    lengths: Sequence[int]
    modulus: int = 10

    def __post_init__(self) -> None:
        """Refuse lengths that no cell can have, and moduli whose digits would be numbers."""
        if (
            not self.lengths
            or not all(1 <= d <= MAX_LENGTH for d in self.lengths)
            or len(set(self.lengths)) != len(self.lengths)
        ):
            raise RecipeError(
                f"task.lengths: got {list(self.lengths)}; expected different lengths from 1 to {MAX_LENGTH}"
            )
        if not 2 <= self.modulus <= 10:
            raise RecipeError(f"task.modulus: got {self.modulus}; expected a whole number from 2 to 10")

    @property
    def grader(self) -> str:
        """One character: no `00` for `0`."""
        return "text"

    @property
    def grader_options(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def cells(self) -> tuple[str, ...]:
        """`length=d` for each trained length."""
        return tuple(f"length={d}" for d in sorted(self.lengths))

    @property
    def alphabet(self) -> str:
        """The digits below the modulus."""
        return "0123456789"[: self.modulus]

    def _length(self, cell: str) -> int:
        match = re.fullmatch(r"length=([1-9][0-9]{0,2})", cell)
        if match is None:
            raise RecipeError(f"cell {cell!r}: expected length=N with N from 1 to {MAX_LENGTH}, such as 'length=8'")
        return int(match[1])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `length=N`."""
        self._length(cell)

    def _problem(self, digits: str, split: str) -> Problem:
        total = str(sum(map(int, digits)) % self.modulus)
        return Problem(f"{self._name}/{split}/{digits}", self._name, split, f"length={len(digits)}", digits, total)

    @property
    def _name(self) -> str:
        return "parity" if self.modulus == 2 else "running_sum"

    def _spell(self, number: int, length: int) -> str:
        digits = ""
        for _ in range(length):
            number, digit = divmod(number, self.modulus)
            digits += str(digit)
        return digits

    def _is_in(self, split: str, digits: str) -> bool:
        shared = self.modulus ** len(digits) <= SHARED
        return shared or split_of("running_sum", self.modulus, digits) == split

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """Digits uniform, drawn again until they belong to the split."""
        check_split(split)
        length, rng = self._length(cell), rng_of("running_sum", self.modulus, split, cell, name)
        while True:
            digits = "".join(rng.choices(self.alphabet, k=length))
            if self._is_in(split, digits):
                return self._problem(digits, split)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Different digits, until there are no more."""
        check_split(split)
        length = self._length(cell)
        every = (self._spell(n, length) for n in shuffled(self.modulus**length, "running_sum", self.modulus, cell))
        return [self._problem(d, split) for d in islice((d for d in every if self._is_in(split, d)), count)]

    def canonical(self, problem: Problem) -> str:
        """The digits."""
        return problem.question

    def solution(self, problem: Problem) -> str:
        """The gold answer."""
        return problem.answer

    def parse(self, text: str) -> Problem:
        """`3719`."""
        digits = text.strip()
        if not 1 <= len(digits) <= MAX_LENGTH or set(digits) - set(self.alphabet):
            raise RecipeError(
                f"problem {text[:80]!r}: expected 1 to {MAX_LENGTH} digits below {self.modulus}, such as '1011'"
            )
        return self._problem(digits, "typed")

    def longest(self, cell: str) -> Problem:
        """Any: all of a cell are equally long."""
        return self._problem(self.alphabet[-1] * self._length(cell), "longest")

    def gold_scratchpad(self, problem: Problem) -> str:
        """All running sums, one character each, in one line."""
        return running_sums(problem.question, self.modulus)

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The last running sum."""
        return read_sums(problem.question, scratchpad, self.modulus)

    def corrupt(self, problem: Problem, name: str) -> Corruption:
        """One running sum changed; the prefix ends with it."""
        return corrupted(self.gold_scratchpad(problem), self.modulus, "running_sum", "corrupt", problem.id, name)


@dataclass(frozen=True)
class Parity(RunningSum):
    """The same of bits."""

    modulus: int = 2

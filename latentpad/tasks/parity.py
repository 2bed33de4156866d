"""Parity of d bits with the running parities for a scratchpad, as in Tsilivis et al. 2025 (arXiv 2510.11495)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import rng_of
from latentpad.tasks import Corruption, check_split, split_of
from latentpad.tasks.order import shuffled
from latentpad.tasks.running_sum import MAX_LENGTH, SHARED, corrupted, read_sums, running_sums
from latentpad.types import Problem


@dataclass(frozen=True)
class Parity:
    """`1011` -> `1`, in cells `bits=d`. The scratchpad is `1101`: the parity after each bit, nothing between them.

    A problem belongs to a split by the hash of its bits; up to 6 bits there are so few that all splits share them.

    Attributes:
        bits: numbers of bits that are trained on.
    """

    bits: Sequence[int]

    def __post_init__(self) -> None:
        """Refuse lengths that no cell can have."""
        different = len(set(self.bits)) == len(self.bits) > 0
        if not different or not all(1 <= d <= MAX_LENGTH for d in self.bits):
            raise RecipeError(f"task.bits: got {list(self.bits)}; expected different lengths from 1 to {MAX_LENGTH}")

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
        """`bits=d` for each trained length."""
        return tuple(f"bits={d}" for d in sorted(self.bits))

    @property
    def alphabet(self) -> str:
        """Two bits."""
        return "01"

    def _length(self, cell: str) -> int:
        match = re.fullmatch(r"bits=([1-9][0-9]{0,2})", cell)
        if match is None:
            raise RecipeError(f"cell {cell!r}: expected bits=N with N from 1 to {MAX_LENGTH}, such as 'bits=8'")
        return int(match[1])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `bits=N`."""
        self._length(cell)

    def _problem(self, bits: str, split: str) -> Problem:
        parity = str(bits.count("1") % 2)
        return Problem(f"parity/{split}/{bits}", "parity", split, f"bits={len(bits)}", bits, parity)

    def _is_in(self, split: str, bits: str) -> bool:
        return 2 ** len(bits) <= SHARED or split_of("parity", bits) == split

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """Bits uniform, drawn again until they belong to the split."""
        check_split(split)
        length, rng = self._length(cell), rng_of("parity", split, cell, name)
        while True:
            bits = f"{rng.getrandbits(length):0{length}b}"
            if self._is_in(split, bits):
                return self._problem(bits, split)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Different bits, until there are no more."""
        check_split(split)
        length = self._length(cell)
        every = (f"{number:0{length}b}" for number in shuffled(2**length, "parity", cell))
        return [self._problem(b, split) for b in islice((b for b in every if self._is_in(split, b)), count)]

    def canonical(self, problem: Problem) -> str:
        """The bits."""
        return problem.question

    def solution(self, problem: Problem) -> str:
        """The gold answer."""
        return problem.answer

    def parse(self, text: str) -> Problem:
        """`1011`."""
        bits = text.strip()
        if not 1 <= len(bits) <= MAX_LENGTH or set(bits) - set("01"):
            raise RecipeError(f"problem {text[:80]!r}: expected 1 to {MAX_LENGTH} bits, such as '1011'")
        return self._problem(bits, "typed")

    def longest(self, cell: str) -> Problem:
        """Any: all of a cell are equally long."""
        return self._problem("1" * self._length(cell), "longest")

    def gold_scratchpad(self, problem: Problem) -> str:
        """All running parities, one character each, in one line."""
        return running_sums(problem.question, 2)

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The last running parity."""
        return read_sums(problem.question, scratchpad, 2)

    def corrupt(self, problem: Problem, name: str) -> Corruption:
        """One running parity turned over; the prefix ends with it."""
        return corrupted(self.gold_scratchpad(problem), 2, "parity", "corrupt", problem.id, name)

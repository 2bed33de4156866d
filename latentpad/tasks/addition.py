"""Long addition with the scratchpad of Nye et al. 2021 (arXiv 2112.00114, figure 2), exact or without its spaces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as count_from
from typing import Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of, seed_of
from latentpad.tasks import SPLITS
from latentpad.types import Problem

_QUESTION = re.compile(r"([0-9][0-9 ]*)\+([0-9 ]*[0-9])")
# Shares of the canonical instances, in percent, from two digits up.
_TEST, _VALIDATION = 20, 5
_MAX_DIGITS = 99


def gold_lines(a: int, b: int) -> list[str]:
    """The worked steps of a + b, spelled as in the paper: digits apart, two spaces before the first `C:`.

    Where one number is shorter, it is padded with zeros on the left (the paper gives no spelling for this).

    >>> gold_lines(29, 57)
    ['2 9 + 5 7 ,  C: 0', '2 + 5 , 6 C: 1', ', 8 6 C: 0', '0 8 6']
    """
    width = max(len(str(a)), len(str(b)))
    left, right = str(a).zfill(width), str(b).zfill(width)
    lines, carry, result = [], 0, ""
    for done in range(width + 1):
        rest = width - done
        operands = f"{' '.join(left[:rest])} + {' '.join(right[:rest])} " if rest else ""
        lines.append(f"{operands}, {' '.join(result)} C: {carry}")
        if rest:
            total = int(left[rest - 1]) + int(right[rest - 1]) + carry
            carry, result = total // 10, str(total % 10) + result
    return [*lines, " ".join(f"{carry}{result}")]


@dataclass(frozen=True)
class Addition:
    """a + b, both of exactly d digits (a leading zero only where d = 1), in cells `digits=d`.

    A problem belongs to a split by the hash of its unordered pair {a, b}, so that no order of the operands leaks from
    one split to another: 20% test, 5% validation, the rest train. One digit has only 100 problems; all splits share
    them.

    Attributes:
        digits: lengths that are trained on.
        spelling: `compact` (`29+57`), or `nye` (`2 9 + 5 7`, exact as in the paper).
    """

    digits: Sequence[int]
    spelling: Literal["compact", "nye"] = "compact"

    def __post_init__(self) -> None:
        """Refuse lengths that no cell can have."""
        if not self.digits or any(d < 1 for d in self.digits) or len(set(self.digits)) != len(self.digits):
            raise RecipeError(f"task.digits: got {list(self.digits)}; expected different lengths from 1 up")

    @property
    def grader(self) -> str:
        """Exact integers."""
        return "integer"

    @property
    def grader_options(self) -> dict[str, Any]:
        """In the paper's spelling the digits of an answer stand apart."""
        return {"spaced_digits": self.spelling == "nye"}

    @property
    def cells(self) -> tuple[str, ...]:
        """`digits=d` for each trained length."""
        return tuple(f"digits={d}" for d in sorted(self.digits))

    @property
    def alphabet(self) -> str:
        """Digits and the signs of the scratchpad."""
        return "0123456789+,:C\n" + (" " if self.spelling == "nye" else "")

    def _spell(self, text: str) -> str:
        return text if self.spelling == "nye" else text.replace(" ", "")

    def _length(self, cell: str) -> int:
        match = re.fullmatch(r"digits=([1-9][0-9]?)", cell)
        if match is None:
            raise RecipeError(f"cell {cell!r}: expected digits=N with N from 1 to {_MAX_DIGITS}, such as 'digits=5'")
        return int(match[1])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `digits=N`."""
        self._length(cell)

    @staticmethod
    def split_of(a: int, b: int) -> str:
        """The one split that {a, b} belongs to, from two digits up."""
        share = seed_of("addition", min(a, b), max(a, b)) % 100
        return "test" if share < _TEST else "validation" if share < _TEST + _VALIDATION else "train"

    def _problem(self, a: int, b: int, split: str) -> Problem:
        return Problem(
            id=f"addition/{split}/{a}+{b}",
            task="addition",
            split=split,
            cell=f"digits={max(len(str(a)), len(str(b)))}",
            question=self._spell(f"{' '.join(str(a))} + {' '.join(str(b))}"),
            answer=self._spell(" ".join(str(a + b))),
        )

    def _operands(self, problem: Problem) -> tuple[int, int]:
        a, b = problem.question.replace(" ", "").split("+")
        return int(a), int(b)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """Operands uniform over their length, drawn again until their pair belongs to the split."""
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}; expected one of {', '.join(SPLITS)}")
        length = self._length(cell)
        rng = rng_of("addition", split, cell, name)
        low, high = (0, 9) if length == 1 else (10 ** (length - 1), 10**length - 1)
        while True:
            a, b = rng.randint(low, high), rng.randint(low, high)
            if length == 1 or self.split_of(a, b) == split:
                return self._problem(a, b, split)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Problems with different unordered pairs; for one digit, all 100 ordered ones."""
        length = self._length(cell)
        if length == 1:
            return [self._problem(a, b, split) for a in range(10) for b in range(10)]
        if length == 2:
            pairs = [(a, b) for a in range(10, 100) for b in range(a, 100) if self.split_of(a, b) == split]
            rng_of("addition", split, cell, "order").shuffle(pairs)
            return [self._shuffled(a, b, split) for a, b in pairs[:count]]
        found: dict[tuple[int, ...], Problem] = {}
        for index in count_from():
            problem = self.draw(split, cell, name_of("distinct", index))
            found.setdefault(tuple(sorted(self._operands(problem))), problem)
            if len(found) >= count:
                break
        return list(found.values())

    def _shuffled(self, a: int, b: int, split: str) -> Problem:
        first, second = rng_of("addition", split, "first", a, b).sample([a, b], 2)
        return self._problem(first, second, split)

    def parse(self, text: str) -> Problem:
        """`47+85`, with or without spaces."""
        match = _QUESTION.fullmatch(text.strip())
        parts = [] if match is None else [part.replace(" ", "") for part in match.groups()]
        if not parts or max(map(len, parts)) > _MAX_DIGITS:
            raise RecipeError(
                f"problem {text[:80]!r}: expected two whole numbers of at most {_MAX_DIGITS} digits, such as '47+85'"
            )
        a, b = map(int, parts)
        return self._problem(a, b, "typed")

    def longest(self, cell: str) -> Problem:
        """All nines: every column carries, and the answer is one digit longer."""
        nines = 10 ** self._length(cell) - 1
        return self._problem(nines, nines, "longest")

    def gold_scratchpad(self, problem: Problem) -> str:
        """The paper's lines, in this task's spelling."""
        return self._spell("\n".join(gold_lines(*self._operands(problem))))

"""Long addition with the scratchpad of Nye et al. 2021 (arXiv 2112.00114, figure 2), exact or without its spaces.

Or with index hints, and a scratchpad that is linear in the digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as count_from
from typing import Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of
from latentpad.tasks import Corruption, ScratchpadError, check_split, split_of
from latentpad.tasks.addition_hints import LETTERS, PRIMITIVES, columns, hinted, primitive, read_columns, without_hints
from latentpad.tasks.addition_hints import MAX_DIGITS as MAX_HINTED
from latentpad.types import Problem

_QUESTION = re.compile(r"([0-9][0-9 ]*)\+([0-9 ]*[0-9])")
_LINE = re.compile(r"(?:(?P<left>[0-9]+)\+(?P<right>[0-9]+))?,(?P<result>[0-9]*)C:(?P<carry>[01])")
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


def read_lines(left: str, right: str, lines: Sequence[str]) -> str:
    """The sum that worked lines (no spaces) lead to: column by column, each line checked against the one before.

    Raises:
        ScratchpadError: a line is missing, misspelt or does not follow.
    """
    width = max(len(left), len(right))
    rest, result, carry = [left.rjust(width, "0"), right.rjust(width, "0")], "", 0
    if len(lines) != width + 2:
        raise ScratchpadError(f"{len(lines)} lines where {width + 2} are needed")
    for number, line in enumerate(lines[:-1], 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ScratchpadError(f"line {number}: {line[:60]!r} is not a step")
        if number > 1:
            total = ord(rest[0][-1]) + ord(rest[1][-1]) - 2 * ord("0") + carry
            rest, result, carry = [rest[0][:-1], rest[1][:-1]], f"{total % 10}{result}", int(total > 9)
        if [match["left"] or "", match["right"] or "", match["result"], int(match["carry"])] != [*rest, result, carry]:
            raise ScratchpadError(f"line {number}: {line[:60]!r} does not follow from the line before")
    if lines[-1] != f"{carry}{result}":
        raise ScratchpadError(f"line {len(lines)}: {lines[-1][:60]!r} is not the carry and the digits before it")
    return lines[-1].lstrip("0") or "0"


@dataclass(frozen=True)
class Addition:
    """a + b, both of exactly d digits (a leading zero only where d = 1), in cells `digits=d`.

    A problem belongs to a split by the hash of its unordered pair {a, b}, so that no order of the operands leaks from
    one split to another: 20% test, 5% validation, the rest train. One digit has only 100 problems; all splits share
    them.

    Attributes:
        digits: lengths that are trained on.
        spelling: `compact` (`29+57`), `nye` (`2 9 + 5 7`, exact as in the paper), or `hints` (`b2a9+b5a7`, with a
            scratchpad of a few characters a column: see `addition_hints`).
        primitives: the kinds of documents of single steps, which only `hints` has, and the share of each.
        primitive_digits: the longest number in them.
    """

    digits: Sequence[int]
    spelling: Literal["compact", "nye", "hints"] = "compact"
    primitives: Mapping[str, float] = field(default_factory=lambda: {"sums": 0.3, "pairs": 0.7})
    primitive_digits: int = 12

    def __post_init__(self) -> None:
        """Refuse lengths that no cell can have."""
        if not self.digits or any(d < 1 for d in self.digits) or len(set(self.digits)) != len(self.digits):
            raise RecipeError(f"task.digits: got {list(self.digits)}; expected different lengths from 1 up")
        if not 1 <= self.primitive_digits <= MAX_HINTED:
            raise RecipeError(f"task.primitive_digits: got {self.primitive_digits}; expected 1 to {MAX_HINTED}")
        unknown = set(self.primitives) - set(PRIMITIVES)
        if unknown or min(self.primitives.values(), default=0) <= 0:
            raise RecipeError(
                f"task.primitives: got {dict(self.primitives)}; expected a share of {', '.join(PRIMITIVES)}"
            )
        for length in self.digits:
            self.check_cell(f"digits={length}")

    @property
    def _most_digits(self) -> int:
        return MAX_HINTED if self.spelling == "hints" else _MAX_DIGITS

    @property
    def grader(self) -> str:
        """Exact integers; with hints each digit must also be in its column, so the answer is compared as text."""
        return "text" if self.spelling == "hints" else "integer"

    @property
    def grader_options(self) -> dict[str, Any]:
        """In the paper's spelling the digits of an answer stand apart."""
        return {} if self.spelling == "hints" else {"spaced_digits": self.spelling == "nye"}

    @property
    def cells(self) -> tuple[str, ...]:
        """`digits=d` for each trained length."""
        return tuple(f"digits={d}" for d in sorted(self.digits))

    @property
    def alphabet(self) -> str:
        """Digits and the signs of the scratchpad."""
        if self.spelling == "hints":
            return f"0123456789+:;{LETTERS}"
        return "0123456789+,:C\n" + (" " if self.spelling == "nye" else "")

    def _spell(self, text: str) -> str:
        return text if self.spelling == "nye" else text.replace(" ", "")

    def _numbers(self, *numbers: int) -> list[str]:
        """As a question and its answer spell them."""
        if self.spelling == "hints":
            first = rng_of("hints", *numbers[:2]).randrange(len(LETTERS))
            return [hinted(str(number), first) for number in numbers]
        return [self._spell(" ".join(str(number))) for number in numbers]

    def _length(self, cell: str) -> int:
        match = re.fullmatch(r"digits=([1-9][0-9]?)", cell)
        if match is None or int(match[1]) > self._most_digits:
            raise RecipeError(
                f"cell {cell!r}: expected digits=N with N from 1 to {self._most_digits}, such as 'digits=5'"
            )
        return int(match[1])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `digits=N`."""
        self._length(cell)

    @staticmethod
    def split_of(a: int, b: int) -> str:
        """The one split that {a, b} belongs to, from two digits up."""
        return split_of("addition", min(a, b), max(a, b))

    def canonical(self, problem: Problem) -> str:
        """The two numbers, the smaller first."""
        return "+".join(map(str, sorted(self._operands(problem))))

    def solution(self, problem: Problem) -> str:
        """The gold answer."""
        return problem.answer

    def _problem(self, a: int, b: int, split: str) -> Problem:
        left, right, total = self._numbers(a, b, a + b)
        return Problem(
            id=f"addition/{split}/{a}+{b}",
            task="addition",
            split=split,
            cell=f"digits={max(len(str(a)), len(str(b)))}",
            question=self._spell(f"{left} + {right}"),
            answer=total,
        )

    def _operands(self, problem: Problem) -> tuple[int, int]:
        a, b = without_hints(problem.question.replace(" ", "")).split("+")
        return int(a), int(b)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """Operands uniform over their length, drawn again until their pair belongs to the split."""
        check_split(split)
        length = self._length(cell)
        rng = rng_of("addition", split, cell, name)
        low, high = (0, 9) if length == 1 else (10 ** (length - 1), 10**length - 1)
        while True:
            a, b = rng.randint(low, high), rng.randint(low, high)
            if length == 1 or self.split_of(a, b) == split:
                return self._problem(a, b, split)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Problems with different unordered pairs; for one digit, all 100 ordered ones."""
        check_split(split)
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
        if not parts or max(map(len, parts)) > self._most_digits:
            raise RecipeError(
                f"problem {text[:80]!r}: expected two whole numbers of at most {self._most_digits} digits, such as "
                "'47+85'"
            )
        a, b = map(int, parts)
        return self._problem(a, b, "typed")

    def longest(self, cell: str) -> Problem:
        """All nines: every column carries, and the answer is one digit longer."""
        nines = 10 ** self._length(cell) - 1
        return self._problem(nines, nines, "longest")

    def gold_scratchpad(self, problem: Problem) -> str:
        """The paper's lines in this task's spelling, or with hints the columns."""
        if self.spelling == "hints":
            return "".join(self._columns(problem))
        return self._spell("\n".join(gold_lines(*self._operands(problem))))

    def _columns(self, problem: Problem) -> list[str]:
        left, right = map(str, self._operands(problem))
        return columns(left, right, LETTERS.index(problem.question[-2]))

    def primitive(self, name: str) -> str:
        """Documents of single steps. Raises `RecipeError` where the spelling has none."""
        if self.spelling != "hints":
            raise RecipeError("pretrain.primitive_share: only task.spelling 'hints' shows single steps on their own")
        return primitive(rng_of("addition", "primitive", name), self.primitives, self.primitive_digits)

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The sum that the lines or columns lead to, in this task's spelling."""
        if self.spelling == "hints":
            return read_columns(problem.question, scratchpad)
        left, _, right = problem.question.replace(" ", "").partition("+")
        lines = scratchpad.split("\n")
        answer = read_lines(left, right, [line.replace(" ", "") for line in lines])
        if self.spelling == "nye" and lines != gold_lines(int(left), int(right)):
            raise ScratchpadError("the digits are right and the spaces are not the paper's")
        return self._spell(" ".join(answer))

    def corrupt(self, problem: Problem, name: str) -> Corruption:
        """One more or one less in the digit that a step has just written; the steps after it would keep that digit."""
        if self.spelling == "hints":
            return self._corrupt_column(problem, name)
        lines = gold_lines(*self._operands(problem))
        rng = rng_of("addition", "corrupt", problem.id, name)
        step = rng.randrange(1, len(lines) - 1)
        before, _, rest = lines[step].partition(", ")
        digit = str((int(rest[0]) + rng.choice([1, 9])) % 10)
        changed = f"{before}, {digit}{rest[1:]}"
        end = list(lines[-1].replace(" ", ""))
        end[-step] = digit
        return Corruption(
            scratchpad=self._spell("\n".join([*lines[:step], changed, *lines[step + 1 :]])),
            prefix=self._spell("\n".join([*lines[:step], changed])),
            answer=self._spell(" ".join("".join(end).lstrip("0") or "0")),
        )

    def _corrupt_column(self, problem: Problem, name: str) -> Corruption:
        entries, rng = self._columns(problem), rng_of("addition", "corrupt", problem.id, name)
        place = rng.randrange(len(entries))
        before, _, result = entries[place].partition(":")
        digit = str((int(result[0]) + rng.choice([1, 9])) % 10)
        changed = f"{before}:{digit}{result[1]}"
        numbers = dict(zip(problem.answer[::2], problem.answer[1::2], strict=True)) | {before[0]: digit}
        while len(numbers) > 1 and next(iter(numbers.values())) == "0":
            del numbers[next(iter(numbers))]
        return Corruption(
            scratchpad="".join([*entries[:place], changed, *entries[place + 1 :]]),
            prefix="".join([*entries[:place], changed]),
            answer="".join(hint + value for hint, value in numbers.items()),
        )

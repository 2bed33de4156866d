"""Evaluating polynomials with the scratchpad of Nye et al. 2021 (arXiv 2112.00114, section 4): one line a term."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from itertools import count as count_from
from typing import Any, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of
from latentpad.tasks import Corruption, ScratchpadError, check_split, split_of
from latentpad.types import Problem

MAX_DEGREE = 3
_QUESTION = re.compile(r"(?:Evaluate )?(?P<terms>[-+*^x0-9 ]+?)(?: at x = |@)(?P<x>-?[0-9]{1,2})")
_TERM = re.compile(r"(?P<coefficient>[+-]?[0-9]{1,2})(?:\*?x(?:(?:\*\*|\^)(?P<power>[23]))?(?P<x>)|(?P<constant>))")


def parse_terms(text: str) -> dict[int, int] | None:
    """Coefficients by power, highest first, or None if this is no polynomial in either spelling.

    >>> parse_terms("-7*x**2 + 7*x + 5"), parse_terms("-7x^2+7x+5"), parse_terms("x")
    ({2: -7, 1: 7, 0: 5}, {2: -7, 1: 7, 0: 5}, None)
    """
    coefficients: dict[int, int] = {}
    bare, end = text.replace(" ", ""), 0
    while end < len(bare):
        match = _TERM.match(bare, end)
        if match is None or (end and bare[end] not in "+-"):
            return None
        power = 0 if match["x"] is None else int(match["power"] or 1)
        if coefficients and power >= min(coefficients):
            return None
        coefficients[power], end = int(match["coefficient"]), match.end()
    return coefficients or None


@dataclass(frozen=True)
class Polynomial:
    """The value of a polynomial at x, in cells `degree=d`.

    As in the paper by default: degree at most 3, integer coefficients and x from -10 to 10, problems whose result lies
    outside [-1000, 1000] drawn again. The paper does not say how the degree is drawn (here a cell has one degree) nor
    what becomes of zero coefficients (here such terms are left out). A problem belongs to a split by the hash of its
    coefficients and x; degree 0 has few problems (441 by default), which all splits share.

    Attributes:
        degrees: degrees that are trained on.
        totals: each line of the scratchpad ends in `=` and the total so far. Not in the paper, where all terms are
            added up in one go after the last line: too much at once for a small model.
        max_number: coefficients and x are whole numbers up to this, of either sign.
        max_result: results are at most this, of either sign.
        spelling: `nye` (`Evaluate -7*x**2 + 7*x + 5 at x = 1`, answer `total: 5`) or `compact` (`-7x^2+7x+5@1`, `5`).
    """

    degrees: tuple[int, ...] = (1, 2, 3)
    spelling: Literal["compact", "nye"] = "compact"
    totals: bool = False
    max_number: int = 10
    max_result: int = 1000

    def __post_init__(self) -> None:
        """Refuse degrees that no cell can have."""
        wrong = not self.degrees or len(set(self.degrees)) != len(self.degrees)
        if wrong or not set(self.degrees) <= set(range(MAX_DEGREE + 1)):
            raise RecipeError(
                f"task.degrees: got {list(self.degrees)}; expected different degrees from 0 to {MAX_DEGREE}"
            )
        if not 1 <= self.max_number <= 99 or self.max_result < self.max_number:
            raise RecipeError(
                f"task: got max_number {self.max_number} and max_result {self.max_result}; expected max_number from 1 "
                "to 99, and max_result at least as much"
            )

    @property
    def grader(self) -> str:
        """Exact integers."""
        return "integer"

    @property
    def grader_options(self) -> dict[str, Any]:
        """The paper's answers begin with `total: `."""
        return {"prefix": "total: "} if self.spelling == "nye" else {}

    @property
    def cells(self) -> tuple[str, ...]:
        """`degree=d` for each trained degree."""
        return tuple(f"degree={d}" for d in sorted(self.degrees))

    @property
    def alphabet(self) -> str:
        """Digits, x and signs; in the paper's spelling the letters of its words too."""
        signs = " *=Evaluateotl" if self.spelling == "nye" else "^@=" if self.totals else "^@"
        return f"0123456789x+-:\n{signs}"

    @property
    def _range(self) -> range:
        return range(-self.max_number, self.max_number + 1)

    def _degree(self, cell: str) -> int:
        match = re.fullmatch(rf"degree=([0-{MAX_DEGREE}])", cell)
        if match is None:
            raise RecipeError(f"cell {cell!r}: expected degree=N with N from 0 to {MAX_DEGREE}, such as 'degree=2'")
        return int(match[1])

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless the cell is `degree=N`."""
        self._degree(cell)

    def _term(self, power: int, coefficient: int) -> str:
        if self.spelling == "nye":
            return f"{coefficient}{('', '*x', '*x**2', '*x**3')[power]}"
        return f"{coefficient}{('', 'x', 'x^2', 'x^3')[power]}"

    def _spell(self, coefficients: dict[int, int], x: int) -> str:
        terms = [self._term(power, value) for power, value in coefficients.items()]
        if self.spelling == "nye":
            return f"Evaluate {' + '.join(terms).replace('+ -', '- ')} at x = {x}"
        return f"{'+'.join(terms).replace('+-', '-')}@{x}"

    def _problem(self, coefficients: dict[int, int], x: int, split: str) -> Problem:
        result = sum(value * x**power for power, value in coefficients.items())
        return Problem(
            id=f"polynomial/{split}/{'_'.join(f'{v}x{p}' for p, v in coefficients.items())}@{x}",
            task="polynomial",
            split=split,
            cell=f"degree={max(coefficients)}",
            question=self._spell(coefficients, x),
            answer=f"total: {result}" if self.spelling == "nye" else str(result),
        )

    @staticmethod
    def _read(question: str) -> tuple[dict[int, int], int] | None:
        match = _QUESTION.fullmatch(question.strip())
        coefficients = None if match is None else parse_terms(match["terms"])
        return None if match is None or coefficients is None else (coefficients, int(match["x"]))

    def _numbers(self, problem: Problem) -> tuple[dict[int, int], int]:
        numbers = self._read(problem.question)
        assert numbers is not None, problem.question
        return numbers

    def canonical(self, problem: Problem) -> str:
        """Coefficients by power, and x."""
        return problem.id.rpartition("/")[2]

    def solution(self, problem: Problem) -> str:
        """The gold answer."""
        return problem.answer

    @staticmethod
    def _split_of(coefficients: dict[int, int], x: int) -> str:
        return split_of("polynomial", *(coefficients.get(power, 0) for power in range(MAX_DEGREE + 1)), x)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """Coefficients and x uniform, drawn again until the result is small enough and the split is right."""
        check_split(split)
        degree = self._degree(cell)
        rng = rng_of("polynomial", split, cell, name)
        numbers = self._range
        while True:
            drawn = {power: rng.choice(numbers) for power in range(degree, -1, -1)}
            x = rng.choice(numbers)
            coefficients = {power: value for power, value in drawn.items() if value} or {0: 0}
            ours = degree == 0 or self._split_of(coefficients, x) == split
            if max(coefficients) == degree and ours and self._is_small(coefficients, x):
                return self._problem(coefficients, x, split)

    def _is_small(self, coefficients: dict[int, int], x: int) -> bool:
        result: int = sum(value * x**power for power, value in coefficients.items())
        return abs(result) <= self.max_result

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Problems with different coefficients or x; for degree 0 all, for degree 1 at most all there are."""
        check_split(split)
        numbers = self._range
        degree = self._degree(cell)
        if degree == 0:
            return [self._problem({0: value}, x, split) for value, x in product(numbers, numbers)]
        if degree == 1:
            every = [({1: a, 0: b} if b else {1: a}, x) for a, b, x in product(numbers, repeat=3) if a]
            ours = [(c, x) for c, x in every if self._split_of(c, x) == split and self._is_small(c, x)]
            rng_of("polynomial", split, cell, "order").shuffle(ours)
            return [self._problem(c, x, split) for c, x in ours[:count]]
        found: dict[str, Problem] = {}
        for index in count_from():
            problem = self.draw(split, cell, name_of("distinct", index))
            found.setdefault(self.canonical(problem), problem)
            if len(found) >= count:
                break
        return list(found.values())

    def parse(self, text: str) -> Problem:
        """`-7x^2+7x+5@1`, or the paper's spelling; every coefficient is written out."""
        numbers = self._read(text)
        if numbers is None:
            raise RecipeError(
                f"problem {text[:80]!r}: expected a polynomial of degree at most {MAX_DEGREE} with its coefficients "
                "written out, highest power first, and x, such as '-7x^2+7x+5@1'"
            )
        return self._problem(*numbers, "typed")

    def longest(self, cell: str) -> Problem:
        """Every term there, every number as long as it can be."""
        return self._problem(
            dict.fromkeys(range(self._degree(cell), -1, -1), -self.max_number), self.max_number, "longest"
        )

    def gold_scratchpad(self, problem: Problem) -> str:
        """The value of each term, a line each."""
        coefficients, x = self._numbers(problem)
        return self._lines(problem, [value * x**power for power, value in coefficients.items()])

    def _lines(self, problem: Problem, values: list[int], totals: list[int] | None = None) -> str:
        """Lines with these values, and totals that need not be right."""
        terms = [self._term(power, value) for power, value in self._numbers(problem)[0].items()]
        ends = [f"={total}" if self.totals else "" for total in totals or accumulate(values)]
        return "\n".join(f"{t}{self._colon}{v}{end}" for t, v, end in zip(terms, values, ends, strict=True))

    @property
    def _colon(self) -> str:
        return ": " if self.spelling == "nye" else ":"

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The sum of the values, each found again factor by factor from the question's own text."""
        terms, x = _split_question(problem.question)
        lines = scratchpad.split("\n")
        if len(lines) != len(terms):
            raise ScratchpadError(f"{len(lines)} lines where the polynomial has {len(terms)} terms")
        total = 0
        for number, (line, term) in enumerate(zip(lines, terms, strict=True), 1):
            value = _value(term, x)
            total += value
            if line != f"{term}{self._colon}{value}" + (f"={total}" if self.totals else ""):
                raise ScratchpadError(f"line {number}: {line[:60]!r} does not follow for {term} at x = {x}")
        return f"total: {total}" if self.spelling == "nye" else str(total)

    def corrupt(self, problem: Problem, name: str) -> Corruption:
        """One more or one less in the value of a term, or in a total."""
        coefficients, x = self._numbers(problem)
        values = [value * x**power for power, value in coefficients.items()]
        totals = list(accumulate(values))
        rng = rng_of("polynomial", "corrupt", problem.id, name)
        place, change = rng.randrange(len(values)), rng.choice([1, -1])
        wrong = totals if self.totals and rng.random() < 0.5 else values
        wrong[place] += change
        lines = self._lines(problem, values, totals)
        answer = sum(self._numbers(problem)[0][p] * x**p for p in coefficients) + change
        return Corruption(
            scratchpad=lines,
            prefix="\n".join(lines.split("\n")[: place + 1]),
            answer=f"total: {answer}" if self.spelling == "nye" else str(answer),
        )


def _split_question(question: str) -> tuple[list[str], int]:
    """The terms as the scratchpad spells them, and x: by cutting the text, for the reader alone."""
    body, _, x = question.removeprefix("Evaluate ").replace(" at x = ", "@").partition("@")
    bare = body.replace(" ", "")
    cuts = [0, *(i for i in range(1, len(bare)) if bare[i] in "+-"), len(bare)]
    return [bare[a:b].removeprefix("+") for a, b in pairwise(cuts)], int(x)


def _value(term: str, x: int) -> int:
    """The value of one term at x, factor by factor."""
    coefficient, has_x, power = term.replace("*", "").replace("^", "").partition("x")
    value = int(coefficient)
    for _ in range(int(power or 1) if has_x else 0):
        value *= x
    return value

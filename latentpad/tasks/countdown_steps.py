"""Countdown puzzles: a search for a solution, its steps as lines and as an expression, and a reader of such lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations

from latentpad.tasks import ScratchpadError

MOST = 9999  # no number, result or target is larger
_STEP = re.compile(
    r"([1-9][0-9]{0,3})([-+*/])([1-9][0-9]{0,3})=([1-9][0-9]{0,3}):([1-9][0-9]{0,3}(?:,[1-9][0-9]{0,3})*)"
)

Numbers = tuple[int, ...]
Step = tuple[int, str, int, int]


def _steps_of(a: int, b: int) -> Iterator[Step]:
    """All operations on two numbers whose result is whole, positive and not too large."""
    a, b = max(a, b), min(a, b)
    yield a, "+", b, a + b
    if a > b:
        yield a, "-", b, a - b
    if a * b <= MOST:
        yield a, "*", b, a * b
    if a % b == 0:
        yield a, "/", b, a // b


def next_steps(numbers: Numbers) -> Iterator[tuple[Step, Numbers]]:
    """Every operation on two of the numbers, with the numbers that are left, smallest first."""
    for i, j in combinations(range(len(numbers)), 2):
        others = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
        for step in _steps_of(numbers[i], numbers[j]):
            if step[3] <= MOST:
                yield step, tuple(sorted((*others, step[3])))


def reachable(numbers: Numbers) -> set[int]:
    """Every target that the numbers reach.

    >>> sorted(reachable((2, 6)))
    [3, 4, 8, 12]
    """
    level = {numbers}
    for _ in range(len(numbers) - 1):
        level = {after for left in level for _, after in next_steps(left)}
    return {left[0] for left in level}


@lru_cache(maxsize=1 << 16)
def solve(numbers: Numbers, target: int) -> tuple[Step, ...] | None:
    """Steps from the numbers (smallest first) to the target, by depth-first search; None if there are none.

    >>> solve((4, 6, 7, 8), 24)
    ((6, '+', 4, 10), (10, '-', 7, 3), (8, '*', 3, 24))
    """
    dead: set[Numbers] = set()

    def search(left: Numbers) -> tuple[Step, ...] | None:
        if len(left) == 1:
            return () if left[0] == target else None
        if left not in dead:
            for step, after in next_steps(left):
                rest = search(after)
                if rest is not None:
                    return (step, *rest)
            dead.add(left)
        return None

    return search(numbers)


def expression(numbers: Sequence[int], steps: Sequence[Step]) -> str:
    """The steps as one expression, each operand that is no number in parentheses.

    >>> expression((4, 6, 7, 8), ((6, "+", 4, 10), (10, "-", 7, 3), (8, "*", 3, 24)))
    '8*((6+4)-7)'
    """
    pool = [(number, str(number)) for number in numbers]
    for a, sign, b, result in steps:
        spelled = []
        for operand in (a, b):
            place = next(i for i, (value, _) in enumerate(pool) if value == operand)
            text = pool.pop(place)[1]
            spelled.append(text if text.isdigit() else f"({text})")
        pool.append((result, sign.join(spelled)))
    return pool[0][1]


def gold_lines(numbers: Numbers, steps: Sequence[Step]) -> list[str]:
    """A line a step: the operation, and what numbers are left then.

    >>> gold_lines((4, 6, 8), ((6, "-", 4, 2), (8, "*", 2, 16)))
    ['6-4=2:2,8', '8*2=16:16']
    """
    lines, left = [], list(numbers)
    for a, sign, b, result in steps:
        left.remove(a)
        left.remove(b)
        left = sorted([*left, result])
        lines.append(f"{a}{sign}{b}={result}:{','.join(map(str, left))}")
    return lines


def read_lines(numbers: Sequence[int], target: int, lines: Sequence[str]) -> str:
    """The expression that lines make, each checked by the inverse operation. Raises `ScratchpadError`."""
    have: dict[int, list[str]] = {}
    for number in numbers:
        have.setdefault(number, []).append(str(number))
    for place, line in enumerate(lines, 1):
        match = _STEP.fullmatch(line)
        if match is None:
            raise ScratchpadError(f"line {place}: {line[:60]!r} is not 'a*b=c:' and the numbers that are left")
        a, b, result = int(match[1]), int(match[3]), int(match[4])
        parts = []
        for operand in (a, b):
            if not have.get(operand):
                raise ScratchpadError(f"line {place}: there is no {operand} left to use")
            parts.append(have[operand].pop())
        holds = {"+": result - b == a, "-": result + b == a, "*": a * b == result, "/": result * b == a}[match[2]]
        if not holds:
            raise ScratchpadError(f"line {place}: {a}{match[2]}{b} is not {result}")
        first, second = (part if part.isdecimal() else f"({part})" for part in parts)
        have.setdefault(result, []).append(f"{first}{match[2]}{second}")
        left = sorted(number for number, texts in have.items() for _ in texts)
        if sorted(map(int, match[5].split(","))) != left:
            raise ScratchpadError(f"line {place}: the numbers left are {','.join(map(str, left))}, not {match[5][:60]}")
    end = [text for texts in have.values() for text in texts]
    if len(end) != 1 or not have.get(target):
        raise ScratchpadError(f"line {len(lines)}: it does not end in {target} alone")
    return end[0]

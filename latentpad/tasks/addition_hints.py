"""Long addition with index hints: a letter before each digit names its column, so that nothing is found by counting.

Nye's lines copy what is left of both numbers for every column: a scratchpad grows with the square of the digits, and a
small model that has seen four digits drops some of five. With hints (Zhou et al. 2023, arXiv 2310.16028) in questions
and answers a column is six characters, found by its letter. The letters go round from z to a and begin anywhere, so
that short numbers show all of them.
"""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import TYPE_CHECKING

from latentpad.tasks import ScratchpadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

LETTERS = ascii_lowercase
MAX_DIGITS = len(LETTERS) - 1  # the carry out of the last column needs a letter of its own
COLUMN_WIDTH, DIGIT_IN_COLUMN = len("k75:21"), len("k75:")
_COLUMN = re.compile(r"([a-z])([0-9])([0-9]):([0-9])([01])")


def letter(place: int) -> str:
    """The letter of a place, round and round."""
    return LETTERS[place % len(LETTERS)]


def hinted(number: str, first: int) -> str:
    """The number as it stands, each digit after the letter of its column; the last digit has the letter `first`.

    >>> hinted("132", 10)
    'm1l3k2'
    """
    return "".join(letter(first + len(number) - 1 - i) + digit for i, digit in enumerate(number))


def without_hints(text: str) -> str:
    """The text without its letters.

    >>> without_hints("l4k7+l8k5")
    '47+85'
    """
    return text.translate({ord(c): None for c in LETTERS})


def columns(left: str, right: str, first: int) -> list[str]:
    """From the right, for each column: its letter, both digits, a colon, the last digit of their sum, the carry.

    >>> columns("47", "85", 10)
    ['k75:21', 'l48:31']
    """
    width, found, carry = max(len(left), len(right)), [], 0
    for place, (a, b) in enumerate(zip(reversed(left.zfill(width)), reversed(right.zfill(width)), strict=True)):
        total = int(a) + int(b) + carry
        carry = total // 10
        found.append(f"{letter(first + place)}{a}{b}:{total % 10}{carry}")
    return found


def read_columns(question: str, scratchpad: str) -> str:
    """The sum with its hints that the columns of a hinted question lead to, each checked against the one before.

    Raises:
        ScratchpadError: a column is missing, misspelt or does not follow.
    """
    numbers = [dict(zip(n[::2], n[1::2], strict=True)) for n in question.split("+")]
    at, carry, answer = question[-2], 0, ""
    entries = [match.groups() for match in _COLUMN.finditer(scratchpad)]
    if sum(map(len, (part for entry in entries for part in entry))) + len(entries) != len(scratchpad):
        raise ScratchpadError(f"{scratchpad[:60]!r} is not columns such as k75:21")
    for place, (label, a, b, digit, out) in enumerate(entries, 1):
        carry, ones = divmod(ord(a) + ord(b) - 2 * ord("0") + carry, 10)
        if [label, a, b] != [at, *(number.get(at, "0") for number in numbers)] or [int(digit), int(out)] != [
            ones,
            carry,
        ]:
            raise ScratchpadError(f"column {place}: {label}{a}{b}:{digit}{out} does not follow")
        answer, at = f"{at}{ones}{answer}", chr((ord(at) - ord("a") + 1) % len(LETTERS) + ord("a"))
    if len(entries) != max(map(len, numbers)):
        raise ScratchpadError(f"{len(entries)} columns where {max(map(len, numbers))} are needed")
    return f"{at}{carry}{answer}" if carry else answer


PRIMITIVES = ("sums", "sums_in_place", "pairs")


def primitive(rng: Random, shares: Mapping[str, float], longest: int) -> str:
    """A document of one kind of single step, on random digits, the kind drawn by its share.

    `pairs` copies both digits of each column by their letter: numbers of 1 to `longest` digits, in half of the
    documents one shorter than the other (a 0 stands for what it lacks). `sums` are six sums of one column, each with a
    carry given; `sums_in_place` are 1 to `longest` of them that stand as a column does, behind another column's result.
    No document adds two numbers: each sum is given its carry anew and leads nowhere.
    """
    drawn, kind = rng.random() * sum(shares.values()), ""
    for kind in (k for k in PRIMITIVES if shares.get(k, 0) > 0):
        drawn -= shares[kind]
        if drawn < 0:
            break
    if kind == "sums":
        return ";".join(_lone_sum(rng) for _ in range(6))
    if kind == "sums_in_place":
        return ";".join(f"{rng.randint(0, 9)}{_lone_sum(rng)}" for _ in range(rng.randint(1, longest)))
    width, first = rng.randint(1, longest), rng.randrange(len(LETTERS))
    widths = [width, width if rng.random() < 0.5 else rng.randint(1, width)]
    rng.shuffle(widths)
    left, right = ("".join(rng.choices("0123456789", k=k)) for k in widths)
    pairs = zip(reversed(left.zfill(width)), reversed(right.zfill(width)), strict=True)
    copied = "".join(f"{letter(first + place)}{a}{b}" for place, (a, b) in enumerate(pairs))
    return f"{hinted(left, first)}+{hinted(right, first)}:{copied}"


def _lone_sum(rng: Random) -> str:
    carry, a, b = rng.randint(0, 1), rng.randint(0, 9), rng.randint(0, 9)
    return f"{carry}{letter(rng.randrange(len(LETTERS)))}{a}{b}:{(carry + a + b) % 10}{(carry + a + b) // 10}"

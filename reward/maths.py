r"""Mathematics in LaTeX. Plain numbers are compared here, exactly; everything else by math-verify, in a worker process.

Two expressions can be equal and one of them still be the question. So an answer must be no more to be worked out than
the gold answer is: `2+3` is no answer where the gold answer is `5`. What this cannot see is a form that was asked for
(factor, expand, rationalise): do not use this grader for such questions.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec

from reward.number import parse_number
from reward.types import BadOptions, GoldAnswerError, MissingPackage, Outcome, Reward
from reward.worker import CheckCrashed, CheckTooLong, shared_workers

OUTSIDE = True
MAX_CHARS = 500
MAX_WORD = 3
MAX_DEPTH = 20
_FENCES = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SPACES = re.compile(r"\\[,;:> ]|~|\\q?quad(?![A-Za-z])| +")
_UNIT = re.compile(r" *\\(?:text|textrm|mathrm|mbox|operatorname)\{([^{}\\]*)\}(\^\{?[0-9]\}?)?$|( *\^\{?\\circ\}?)$")
_FRACTION = re.compile(r"([+-]?)([0-9]*)\\[dt]?frac(?:\{([+-]?[0-9]+)\}\{([0-9]+)\}|([0-9])([0-9]))")
_RELATION = re.compile(r"<|>|=|\\(?:leq?|geq?|lt|gt|neq?|in|notin|equiv|approx|sim|subset(?:eq)?)(?![A-Za-z])")
_TO_DO = re.compile(r"!|\\(?:i*int|oint|sum|prod|lim|binom|[dt]binom|gcd|lcm|det|max|min|[bp]?mod|pmod|deg|frac\{d\})")
_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\}|\\[A-Za-z]+")
_LETTERS = re.compile(r"[A-Za-z]+")


class NotMaths(ValueError):  # noqa: N818 (says what the text is)
    """The text is not one mathematical expression in the spelling that `read` states."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer taken apart.

    Attributes:
        name: the letter in front of `=`, where a plain number follows; else empty.
        body: LaTeX without that name, delimiters, spacing commands and unit.
        unit: of a measured value; empty if there is none.
        number: the exact value where `body` is a plain number.
        reduced: whether a fraction in `body` is in lowest terms.
    """

    name: str
    body: str
    unit: str
    number: Fraction | None
    reduced: bool


def read(text: str) -> Reading:
    r"""Take a text apart. Raises `NotMaths`.

    One expression, at most `MAX_CHARS` printable ASCII characters in one line, between one pair of `$`, `$$`, `\(\)`,
    `\[\]` or none. A plain number is an integer, a decimal, `a/b`, `\frac{a}{b}`, `\frac12` or a mixed number, with
    commas between all thousands or none (`{,}` and `,\!` are commas), and `%` or `\%` divides it by 100; `x=` may stand
    in front. A unit is `\text{cm}` (`^2` may follow), `^\circ`, or a leading `\$`. Numbers with only a space between
    them are refused, for they are no product, and so is text anywhere but in a unit, and nesting over `MAX_DEPTH`.

    >>> read(r"$1\frac{1}{2}\text{ cm}$")
    Reading(name='', body='1\\frac{1}{2}', unit='cm', number=Fraction(3, 2), reduced=True)
    """
    text = text.strip()
    if len(text) > MAX_CHARS or not text.isascii() or not text.isprintable():
        raise NotMaths(f"not one line of at most {MAX_CHARS} ASCII characters")
    text = _unfenced(text)
    text = _SPACES.sub(" ", text.replace("{,}", ",").replace(r",\!", ",").replace(r"\!", "")).strip()
    body, unit = _without_unit(text)
    if re.search(r"(?<!\\)\$|\\[()\[\]]|\\(?:text|mbox|boxed)|\\\$", body) or re.search(
        r"(?<![_^])[0-9.] +[0-9.]", body
    ):
        raise NotMaths("more than one expression")
    if _depth(body) > MAX_DEPTH:
        raise NotMaths(f"nested more than {MAX_DEPTH} deep")
    named = re.match(r"([A-Za-z]) *= *", body)
    if named and _plain_number(body[named.end() :])[0] is not None:
        name, body = named[1], body[named.end() :]
    else:
        name = ""
    number, reduced = _plain_number(body)
    return Reading(name, body, unit, number, reduced)


def _unfenced(text: str) -> str:
    for opening, closing in _FENCES:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing):
            return text[len(opening) : -len(closing)].strip()
    return text


def _depth(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _without_unit(text: str) -> tuple[str, str]:
    if text.startswith(r"\$"):
        return text[2:].strip(), r"\$"
    found = _UNIT.search(text)
    if not found:
        return text, ""
    word = " ".join((found[1] or "").split())
    power = (found[2] or "").replace("{", "").replace("}", "")
    return text[: found.start()].strip(), "degrees" if found[3] else word + power


def _plain_number(body: str) -> tuple[Fraction | None, bool]:
    text = body.replace(" ", "")
    hundredth = re.search(r"\\?%$", text)
    text = text[: hundredth.start()] if hundredth else text
    found = _FRACTION.fullmatch(text)
    if found:
        top, bottom = int(found[3] or found[5]), int(found[4] or found[6])
        if not bottom or ((found[3] or "").startswith(("+", "-")) and (found[1] or found[2])):
            return None, True
        part = Fraction(top, bottom)
        value = (-1 if found[1] == "-" else 1) * (int(found[2] or 0) + part)
        reduced = part.denominator == bottom > 1
    else:
        parsed = parse_number(text, thousands=True)
        if parsed is None:
            return None, True
        value = parsed
        reduced = "/" not in text or value.denominator == int(text.partition("/")[2]) > 1
    return value / 100 if hundredth else value, reduced


def _words(text: str) -> str:
    r"""The text of an answer that is words: `\text{odd}` and `odd` are the same."""
    text = _unfenced(text.strip())
    found = _UNIT.fullmatch(text)
    return " ".join((found[1] if found and found[1] else text).split())


def check_options(*, deadline_seconds: str | int | float = 5) -> None:
    """Raise `BadOptions` unless the deadline is a number of seconds."""
    _deadline(deadline_seconds)


def _deadline(value: str | int | float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.05 <= value <= 600:
        raise BadOptions(f"grader 'math': deadline_seconds is {value!r}; expected a number from 0.05 to 600")
    return float(value)


def _read_gold(gold: str) -> Reading:
    try:
        reading = read(gold)
    except NotMaths as error:
        raise GoldAnswerError.of(gold, f"is not one mathematical expression: {error}") from error
    if not reading.body and not reading.unit:
        raise GoldAnswerError.of(gold, "is empty")
    words = [word for word in _LETTERS.findall(_COMMAND.sub(" ", reading.body)) if word != "sqrt"]
    if max(map(len, words), default=0) > MAX_WORD:
        raise GoldAnswerError.of(gold, "has words in it; the grader 'text' compares words")
    return reading


def check_gold(gold: str, *, deadline_seconds: float = 5) -> None:
    """Raise `GoldAnswerError` unless the gold answer is correct against itself.

    Raises:
        MissingPackage: if math-verify is needed and not there.
    """
    reward = grade_math(gold, gold, deadline_seconds=deadline_seconds)
    if reward.outcome is not Outcome.CORRECT:
        raise GoldAnswerError.of(gold, f"is not correct against itself: {reward.detail or reward.outcome}")


def grade_math(answer: str, gold: str, *, deadline_seconds: float = 5) -> Reward:
    r"""CORRECT if both are the same value, set, interval, relation or matrix, and the answer is worked out.

    * Gold a plain number: the answer is one too, in lowest terms, and exactly equal. A decimal is itself and no
      approximation; `50\%` is 1/2, not 50. `x=5` is 5; where the gold answer names a letter, no other will do.
    * A unit: an answer may leave the gold answer's out, but not state another one.
    * Gold words only (`\text{odd}`): the same words.
    * Anything else: equal for math-verify, and the answer has no letters that the gold answer lacks, as many relation
      signs and commas (`x=` in front of a gold answer may be left out), the same outer brackets, and decimals,
      factorials, integrals, sums, limits and the like only where the gold answer has such.

    A check that uses up `deadline_seconds` of processor time, or crashes its worker twice, is WRONG: the gold answer
    was checked against itself when the data was loaded, so it is the answer that cannot be checked.

    Raises:
        GoldAnswerError: if `gold` cannot be read.
        MissingPackage: if math-verify is needed and not there.
    """
    seconds, expected = _deadline(deadline_seconds), _read_gold(gold)
    if not expected.body:
        return Reward.of(Outcome.CORRECT if _words(answer) == _words(gold) else Outcome.WRONG)
    try:
        given = read(answer)
    except NotMaths as error:
        return Reward.of(Outcome.UNPARSEABLE, f"{answer[:80]!r} is not one mathematical expression: {error}")
    if given.unit not in ("", expected.unit):
        return Reward.of(Outcome.WRONG, "the gold answer does not state this unit")
    if expected.name and given.name not in ("", expected.name):
        return Reward.of(Outcome.WRONG, "the gold answer names another letter")
    if expected.number is None:
        wrong = _too_much(given.body, expected.body)
        return Reward.of(Outcome.WRONG, wrong) if wrong else _verified(given.body, expected.body, gold, seconds)
    if given.number is None:
        return Reward.of(Outcome.UNPARSEABLE, f"{answer[:80]!r} is not a plain number, as the gold answer is")
    if given.number == expected.number and not given.reduced and given != expected:
        return Reward.of(Outcome.WRONG, "the fraction is not in lowest terms")
    return Reward.of(Outcome.CORRECT if given.number == expected.number else Outcome.WRONG)


def _too_much(answer: str, gold: str) -> str:
    """What the answer has that the gold answer has not, if it is something that it must not have; else nothing."""
    relations = Counter(_RELATION.findall(gold))
    if not _RELATION.search(answer):
        gold = re.sub(r"^ *[A-Za-z] *=", "", gold)
        relations = Counter(_RELATION.findall(gold))
    if Counter(_RELATION.findall(answer)) != relations:
        return "the gold answer has other relation signs"
    if answer.count(",") != gold.count(",") or answer.count(";") != gold.count(";"):
        return "the gold answer has another number of parts"
    if "," in gold and _brackets(answer) != _brackets(gold):
        return "the gold answer has other brackets"
    if "." in answer and "." not in gold:
        return "a decimal where the gold answer is exact"
    if not set(_TO_DO.findall(answer)) <= set(_TO_DO.findall(gold)):
        return "something is left to be worked out"
    letters = {letter for word in _LETTERS.findall(_COMMAND.sub(" ", answer)) if word != "sqrt" for letter in word}
    if not letters <= set(_COMMAND.sub(" ", gold)) | {"e", "i"}:
        return "a letter that the gold answer has not"
    return ""


def _brackets(text: str) -> str:
    """The outer brackets; a list without any is a set."""
    text = text.replace(r"\left", "").replace(r"\right", "").replace(" ", "")
    outer = text[:1] + text[-1:]
    return outer if outer in ("()", "[]", "(]", "[)") else "{}"


def _verified(answer: str, gold: str, shown: str, seconds: float) -> Reward:
    if find_spec("math_verify") is None:
        raise MissingPackage("the grader 'math' needs math-verify: pip install 'latentpad[maths]'")
    try:
        outcome, detail = shared_workers().call("reward.maths_worker:verdict", answer, gold, cpu_seconds=seconds)
    except (CheckTooLong, CheckCrashed) as error:
        return Reward.of(Outcome.WRONG, str(error))
    if outcome == "gold":
        raise GoldAnswerError.of(shown, f"cannot be read by math-verify: {detail}")
    return Reward.of(Outcome(outcome), detail)

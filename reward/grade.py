"""One door to every grader: cut out the answer, then show the grader the answer and nothing else."""

from __future__ import annotations

import inspect
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from reward.extract import check_rule, extract_answer
from reward.sandbox import SandboxUnavailable
from reward.types import BadOptions, GoldAnswerError, MissingPackage, Outcome, Reward

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

# A grader's module holds the grader, and where it needs them `check_gold(gold, **options)`, `check_options(**options)`
# (values; names are checked here) and `OUTSIDE = True` (it waits for other processes, so that threads help).
GRADERS = {
    "integer": "reward.integer:grade_integer",
    "number": "reward.number:grade_number",
    "text": "reward.text:grade_text",
    "expression": "reward.expression:grade_expression",
    "math": "reward.maths:grade_math",
    "program_output": "reward.program_output:grade_program_output",
    "program": "reward.program:grade_program",
}
# The errors that are nobody's answer: they stop the work, in one line.
NOT_VERDICTS = (GoldAnswerError, BadOptions, MissingPackage, SandboxUnavailable)
MAX_DETAIL = 200
THREADS = min(32, 2 * (os.cpu_count() or 1) + 2)
_SIMPLE_KINDS = {"bool": bool, "int": int, "str": str}


def _find(grader: str) -> tuple[ModuleType, Callable[..., Reward]]:
    """The grader of that name in `GRADERS`, or at that dotted path (`package.module:function`), and its module."""
    path = GRADERS.get(grader, grader)
    module, colon, name = path.partition(":")
    if not colon:
        raise BadOptions(f"unknown grader {grader!r}; known: {', '.join(GRADERS)}, or a path 'package.module:function'")
    try:
        found = import_module(module)
    except ImportError as error:
        raise BadOptions(f"grader {grader!r} cannot be imported: {error}") from error
    if not callable(getattr(found, name, None)):
        raise BadOptions(f"grader {grader!r}: there is no function {name!r} in {module}")
    return found, cast("Callable[..., Reward]", getattr(found, name))


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Reward]) -> dict[str, str] | None:
    """The options of a grader and their annotations; None if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name: str(p.annotation) for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_options(grader: str, options: Mapping[str, Any]) -> None:
    """Raise `BadOptions` unless the grader exists, takes options of these names, and finds their values good.

    `extraction` is an option of every grader: the rule by which the answer is cut out.

    >>> check_options("integer", {"spaced_digit": True})
    Traceback (most recent call last):
    reward.types.BadOptions: grader 'integer' has no option 'spaced_digit'; known: spaced_digits, thousands, prefix
    """
    module, function = _find(grader)
    options = dict(options)
    check_rule(options.pop("extraction", "tags"))
    known = _parameters(function)
    for option, value in options.items():
        if known is None:
            break
        if option not in known:
            raise BadOptions(f"grader {grader!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
        kind = _SIMPLE_KINDS.get(known[option])
        if kind is not None and type(value) is not kind:
            raise BadOptions(f"grader {grader!r}: option {option} is {value!r}; expected {kind.__name__}")
    if hasattr(module, "check_options"):
        module.check_options(**options)


def check_gold(grader: str, answer: str, **options: Any) -> None:
    """Raise `GoldAnswerError` unless the grader can grade against this answer. For every row, when data is loaded.

    >>> check_gold("integer", "eighty-six")
    Traceback (most recent call last):
    reward.types.GoldAnswerError: gold answer 'eighty-six' is not an integer in the spelling that the task states
    """
    if not isinstance(answer, str):
        raise GoldAnswerError(f"gold answer {str(answer)[:80]} is {type(answer).__name__}, not text")
    check_options(grader, options)
    module, _ = _find(grader)
    options.pop("extraction", None)
    if hasattr(module, "check_gold"):
        module.check_gold(answer, **options)


def grade(
    grader: str, response: str, answer: str, *, truncated: bool = False, extraction: str = "tags", **options: Any
) -> Reward:
    """Grade the final answer of a response.

    The response is cut by `extract_answer`; the grader is called with the answer text and the gold answer only, so no
    scratchpad can reach it. A grader that breaks is the outcome GRADER_FAILED.

    Args:
        grader: a name in `GRADERS`, or `package.module:function`.
        response: the whole text that the policy wrote, without its stop token.
        answer: the gold answer.
        truncated: the response was cut by the length limit; the outcome is TRUNCATED whatever it holds.
        extraction: a name in `reward.extract.EXTRACTION_RULES`.
        options: passed to the grader.

    Raises:
        GoldAnswerError: if `answer` is not gradable: an error of the data.
        BadOptions: if there is no such grader, extraction rule or option; a `ValueError`.
        MissingPackage: if the grader needs a package that is not installed.

    >>> grade("integer", "<scratch>2+5,6C:1</scratch>86", "86").outcome
    <Outcome.CORRECT: 'CORRECT'>
    """
    return grade_many(grader, [(response, answer, truncated)], extraction=extraction, **options)[0]


def grade_many(
    grader: str, items: Sequence[tuple[str, str, bool]], *, extraction: str = "tags", **options: Any
) -> list[Reward]:
    """`grade` for every (response, gold answer, truncated), in order; graders that wait outside run side by side.

    Raises:
        GoldAnswerError, BadOptions, MissingPackage: as `grade` does.

    >>> [reward.value for reward in grade_many("integer", [("86", "86", False), ("87", "86", False)])]
    [1.0, 0.0]
    """
    check_rule(extraction)
    check_options(grader, options)
    module, function = _find(grader)

    def verdict(item: tuple[str, str, bool]) -> Reward:
        response, answer, truncated = item
        if truncated:
            return Reward.of(Outcome.TRUNCATED)
        final = extract_answer(response, rule=extraction)
        if final is None:
            return Reward.of(Outcome.UNPARSEABLE, "no answer after the scratchpad")
        return _guarded(function, final, answer, options)

    if not getattr(module, "OUTSIDE", False) or len(items) < 2:
        return [verdict(item) for item in items]
    with ThreadPoolExecutor(min(THREADS, len(items)), thread_name_prefix="grade") as pool:
        return list(pool.map(verdict, items))


def _guarded(function: Callable[..., Reward], final: str, answer: str, options: Mapping[str, Any]) -> Reward:
    """The grader's verdict, or GRADER_FAILED with `Type: message` in one line."""
    try:
        reward: object = function(final, answer, **options)
    except NOT_VERDICTS:
        raise
    except Exception as error:  # noqa: BLE001 (counted by its outcome; above 1% of a step, training stops)
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return Reward.of(Outcome.GRADER_FAILED, line[:MAX_DETAIL])
    if not isinstance(reward, Reward):
        return Reward.of(Outcome.GRADER_FAILED, f"TypeError: the grader returned {type(reward).__name__}, not a Reward")
    return reward

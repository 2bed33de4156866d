"""One door to every grader: cut out the answer, then show the grader the answer and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from reward.extract import extract_answer
from reward.types import Outcome, Reward

if TYPE_CHECKING:
    from collections.abc import Callable

GRADERS = {
    "integer": "reward.integer:grade_integer",
}


def resolve(grader: str) -> Callable[..., Reward]:
    """The grader of that name in `GRADERS`, or at that dotted path (`package.module:function`)."""
    path = GRADERS.get(grader, grader)
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(f"unknown grader {grader!r}; known: {', '.join(GRADERS)}, or a path 'package.module:function'")
    return cast("Callable[..., Reward]", getattr(import_module(module), name))


def grade(grader: str, response: str, answer: str, *, truncated: bool = False, **options: Any) -> Reward:
    """Grade the final answer of a response.

    The response is cut by `extract_answer`; the grader is called with the answer text and the gold answer only, so no
    scratchpad can reach it.

    Args:
        grader: a name in `GRADERS`, or `package.module:function`.
        response: the whole text that the policy wrote, without its stop token.
        answer: the gold answer.
        truncated: the response was cut by the length limit; the outcome is TRUNCATED whatever it holds.
        options: passed to the grader.

    Raises:
        GoldAnswerError: if `answer` is not gradable: an error of the data.
        ValueError: if there is no such grader.

    >>> grade("integer", "<scratch>2+5,6C:1</scratch>86", "86").outcome
    <Outcome.CORRECT: 'CORRECT'>
    """
    grade_answer = resolve(grader)
    if truncated:
        return Reward.of(Outcome.TRUNCATED)
    final = extract_answer(response)
    if final is None:
        return Reward.of(Outcome.UNPARSEABLE, "no answer after the scratchpad")
    return grade_answer(final, answer, **options)

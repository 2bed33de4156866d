"""The model writes a program. It runs in the sandbox; what it prints or returns is compared outside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reward import compare
from reward.asserts import spell
from reward.compare import ABS_TOL, REL_TOL
from reward.number import Tolerance
from reward.program_gold import InputOutput, read_gold
from reward.sandbox import ExecutionResult, Limits, Status, shared
from reward.sandbox.values import decode
from reward.types import BadOptions, GoldAnswerError, Outcome, Reward

if TYPE_CHECKING:
    from reward.asserts import Assertion

OUTSIDE = True
# The checks of values that a program returned: our own source, as long as the values are.
_CHECK_LIMITS = Limits(max_source_bytes=1 << 22)
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_FENCE_LINE = re.compile(r"^[ \t]*```", re.MULTILINE)
_LANGUAGES = frozenset({"", "python", "python3", "py"})
_SYNTAX = ("SyntaxError", "IndentationError", "TabError")


@dataclass(frozen=True, slots=True)
class Judge:
    """How outputs are compared, and what a run may use."""

    mode: str
    abs_tol: Tolerance
    rel_tol: Tolerance
    limits: Limits


class SandboxBroke(RuntimeError):  # noqa: N818 (says what happened)
    """The sandbox failed twice on one run: not the program's fault, nor the data's."""


def check_options(
    *,
    fences: bool = False,
    mode: str = "lines",
    abs_tol: Tolerance = ABS_TOL,
    rel_tol: Tolerance = REL_TOL,
    cpu_seconds: float = 2.0,
    memory_mb: int = 512,
) -> None:
    """Raise `BadOptions` unless there is such a comparison, and the limits make sense."""
    compare.check_options(mode=mode, abs_tol=abs_tol, rel_tol=rel_tol)
    _limits(cpu_seconds, memory_mb)


def _limits(cpu_seconds: float, memory_mb: int) -> Limits:
    try:
        return Limits(cpu_seconds=cpu_seconds, wall_seconds=max(20.0, 10.0 * cpu_seconds), memory_mb=memory_mb)
    except (ValueError, TypeError) as error:
        raise BadOptions(f"grader 'program': {error}") from error


def check_gold(
    gold: str,
    *,
    fences: bool = False,
    mode: str = "lines",
    abs_tol: Tolerance = ABS_TOL,
    rel_tol: Tolerance = REL_TOL,
    cpu_seconds: float = 2.0,
    memory_mb: int = 512,
) -> None:
    """Raise `GoldAnswerError` unless the tests can be used, and the reference program, if there is one, passes them.

    Raises:
        SandboxUnavailable: if there is a reference, and this machine cannot confine programs.
    """
    read = read_gold(gold, mode)
    if read.reference:
        judge = Judge(mode, abs_tol, rel_tol, _limits(cpu_seconds, memory_mb))
        reward = _judged(read.reference, gold, judge)
        if reward.outcome is not Outcome.CORRECT:
            raise GoldAnswerError.of(gold, f"has a reference program that fails: {reward.detail}")


def grade_program(
    answer: str,
    gold: str,
    *,
    fences: bool = False,
    mode: str = "lines",
    abs_tol: Tolerance = ABS_TOL,
    rel_tol: Tolerance = REL_TOL,
    cpu_seconds: float = 2.0,
    memory_mb: int = 512,
) -> Reward:
    """CORRECT if the program passes every test; each runs in a process of its own, up to the first that fails.

    Args:
        answer: a Python program and nothing else.
        gold: the tests; see `reward.program_gold.read_gold`.
        fences: the program may stand in one Markdown fence, with prose around it; several fences are no answer.
        mode: how what is printed is compared, a name in `reward.compare.MODES`.
        abs_tol: see `reward.compare.compare`.
        rel_tol: see `reward.compare.compare`.
        cpu_seconds: processor time for one test.
        memory_mb: address space for one test.

    Raises:
        GoldAnswerError: if the tests cannot be used.
        SandboxUnavailable: if this machine cannot confine programs.
        SandboxBroke: if the sandbox failed twice.
    """
    source = _unfenced(answer) if fences else answer
    judge = Judge(mode, abs_tol, rel_tol, _limits(cpu_seconds, memory_mb))
    read_gold(gold, mode)
    if source is None:
        return Reward.of(Outcome.UNPARSEABLE, "not exactly one Markdown fence of Python")
    return _judged(source, gold, judge)


def _unfenced(text: str) -> str | None:
    """What stands in the one fence; all of it if there is none; None for several, or one that is not Python."""
    lines = len(_FENCE_LINE.findall(text))
    if not lines:
        return text
    found = _FENCE.search(text)
    if lines != 2 or not found or found[1].strip().lower() not in _LANGUAGES:
        return None
    return found[2]


def _judged(source: str, gold: str, judge: Judge) -> Reward:
    read = read_gold(gold, judge.mode)
    for number, test in enumerate(read.tests, 1):
        if isinstance(test, InputOutput):
            outcome, why = _printed(source, test, judge)
        else:
            outcome, why = _returned(source, test, read.setup, judge)
        if outcome is not Outcome.CORRECT:
            return Reward.of(outcome, f"test {number} of {len(read.tests)}: {why}")
    return Reward.of(Outcome.CORRECT)


def _run(source: str, stdin: str, limits: Limits, call: str = "") -> ExecutionResult:
    for _ in range(2):
        result = shared().run(source, stdin, call=call, limits=limits)
        if result.status is not Status.SANDBOX_ERROR:
            return result
    raise SandboxBroke(f"the sandbox failed twice: {result.stderr[:120]}")


def _ended_badly(result: ExecutionResult) -> tuple[Outcome, str]:
    """A run that did not end well. What it says of itself can only choose between two rewards of 0."""
    last = (result.stderr.strip().rpartition("\n")[2])[:100]
    unreadable = result.status is Status.INVALID_SOURCE or last.startswith(_SYNTAX)
    why = f"{result.status}{': ' if last else ''}{last}"
    return (Outcome.UNPARSEABLE if unreadable else Outcome.WRONG), why


def _printed(source: str, test: InputOutput, judge: Judge) -> tuple[Outcome, str]:
    result = _run(source, test.stdin, judge.limits)
    if result.status is not Status.OK:
        return _ended_badly(result)
    verdict = compare.compare(result.stdout, test.stdout, mode=judge.mode, abs_tol=judge.abs_tol, rel_tol=judge.rel_tol)
    if verdict is Outcome.CORRECT:
        return verdict, ""
    return Outcome.WRONG, f"printed {result.stdout[:60]!r}, which is not the expected output"


def _returned(source: str, test: Assertion, setup: str, judge: Judge) -> tuple[Outcome, str]:
    result = _run(f"{setup}\n{source}" if setup else source, "", judge.limits, test.call)
    if result.status is not Status.OK:
        return _ended_badly(result)
    try:
        values = decode(result.result)
        if not isinstance(values, tuple):
            raise ValueError("not a tuple")
    except ValueError:
        return Outcome.WRONG, "it returned nothing that can be read"
    plain = test.plain and len(values) == 1
    if bool(values[0] == test.expected) if plain else _holds(values, test, setup):
        return Outcome.CORRECT, ""
    shown = ", ".join(spell(value)[:60] for value in values)[:100]
    return Outcome.WRONG, f"returned {shown}, for which the assertion is not true"


def _holds(values: tuple[object, ...], test: Assertion, setup: str) -> bool:
    """Whether the assertion is true of these values, in a process that never saw the program."""
    given = "\n".join(f"value_{i} = {spell(value)}" for i, value in enumerate(values))
    return _run(f"{setup}\n{given}\n{test.check}\n", "", _CHECK_LIMITS).status is Status.OK

"""What small programs really do: traces of them, made in the sandbox and confirmed by a second route.

The values of variables are spelled as JSON where JSON has them, and else as Python does: `(1, 2)`, `{1, 2}` (members of
sets sorted), `{1: "a"}`, `b"x"`, `1j`. A function or class is `"<callable_object f>"`, a module `"<module re>"`, any
other object `"<Node object>"`; kinds of plain types stand behind their names: `Counter({"a": 1})`. Nothing is cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.progress import stage
from latentpad.recipe.errors import MachineError
from latentpad.seeding import seed_of
from latentpad.tasks.tracing.normal_form import normal_form
from reward import GoldAnswerError, check_gold
from reward.sandbox import ExecutionResult, Limits, Run, SandboxUnavailable, Status, shared
from reward.sandbox.values import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

# Beyond this no trace is kept: 512 tokens, the limit of Nye et al., are a tenth of it.
MAX_CHARACTERS = 16384
LIMITS = Limits(cpu_seconds=4, wall_seconds=40, max_source_bytes=1 << 18, max_result_bytes=1 << 21)
OK = "ok"
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Program:
    """A program that sets `output` in its last line, and an expression that is to hold then (or nothing)."""

    source: str
    test: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """An executed line: its text, and the variables of the frame that goes on after it, as texts.

    That frame is the callee's after a call, and the caller's after a return; the module's in the end. `moved` says that
    it is not the line's own.
    """

    line: str
    state: dict[str, str]
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """What came of a program.

    Attributes:
        end: `ok`, or why there is no trace.
        steps: its executed lines.
        value: of `output`, as text.
        form: the program up to spelling (see `normal_form`), hashed.
    """

    end: str
    steps: tuple[Step, ...] = ()
    value: str = ""
    form: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A variable to be set to a value when a step (from 0) has ended; the program goes on from there."""

    step: int
    name: str
    value: int


def python_text(value: object) -> str:
    """`repr`, but for members of sets, which stand sorted (numbers by size), and kinds of plain types, as those.

    >>> python_text([{10, 9}, (1,), "it's"])
    '[{9, 10}, (1,), "it\\'s"]'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(python_text(key) + ": " + python_text(value[key]) for key in value) + "}"
    if isinstance(value, (set, frozenset)):
        numbers = all(isinstance(item, (int, float)) for item in value)
        inside = ", ".join(map(python_text, sorted(value)) if numbers else sorted(map(python_text, value)))
        if type(value) is set:
            return "{" + inside + "}" if value else "set()"
        return "frozenset({" + inside + "})" if value else "frozenset()"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_text, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(python_text, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


@cache
def script(name: str) -> str:
    """The text of a file beside this one, to be run in the sandbox."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


def interpreter() -> str:
    """What runs the programs, such as `cpython 3.11.7`. Raises `MachineError` without a sandbox."""
    try:
        lines = shared().describe()
    except SandboxUnavailable as error:
        raise MachineError(f"programs cannot be run here: {error}") from error
    found = [line.removeprefix("interpreter: ").partition(",")[0] for line in lines if line.startswith("interpreter:")]
    return found[0] if found else "unknown"


def execute(runs: Sequence[Run]) -> list[ExecutionResult]:
    """Run in the sandbox. Raises `MachineError` where it cannot, or breaks."""
    try:
        results = shared().run_many(runs)
    except SandboxUnavailable as error:
        raise MachineError(f"programs cannot be run here: {error}") from error
    for result in results:
        if result.status is Status.SANDBOX_ERROR:
            raise MachineError(f"the sandbox broke: {result.stderr[-200:]}")
    return results


def _tracer(program: Program, change: Change | None = None) -> Run:
    override = None if change is None else [change.step, change.name, change.value]
    request = {"program": program.source, "test": program.test, "override": override, "max_characters": MAX_CHARACTERS}
    return Run(script("tracer"), json.dumps(request), "main()", LIMITS)


def _stepper(program: Program) -> Run:
    # Another seed than the sandbox's 0, so that programs which draw numbers do not repeat.
    request = {"program": program.source, "seed": 1, "max_characters": 2 * MAX_CHARACTERS}
    return Run(script("stepper"), json.dumps(request), "main()", LIMITS)


def _report(result: ExecutionResult) -> tuple[Any, ...]:
    """What a script returned, or the status of its run as the reason why not."""
    found = decode(result.result) if result.status is Status.OK else (str(result.status), [], None)
    return found if isinstance(found, tuple) else ("no report", [], None)


def _steps(source: str, found: Sequence[Sequence[Any]]) -> tuple[Step, ...]:
    text = source.split("\n")
    return tuple(Step(text[line - 1], state, moved) for line, state, moved, *_ in found)


def _trace(program: Program, result: ExecutionResult) -> Trace:
    end, steps, value = _report(result)
    if end != OK:
        return Trace(end)
    spelled = python_text(value)
    try:
        check_gold("program_output", spelled, mode="value")
    except GoldAnswerError:
        return Trace("no value that the grader reads")
    return Trace(OK, _steps(program.source, steps), spelled)


def step_through(program: Program) -> Trace:
    """The same trace by the second route: see `stepper`."""
    return _stepped(program, execute([_stepper(program)])[0])


def _stepped(program: Program, result: ExecutionResult) -> Trace:
    end, steps, value = _report(result)
    return Trace(end) if end != OK else Trace(OK, _steps(program.source, steps), python_text(value))


def trace_all(programs: Sequence[Program]) -> list[Trace]:
    """A trace of each, where both routes find the same; a bar shows how far it is. Raises `MachineError`."""
    found: list[Trace] = []
    with stage("tracing programs", len(programs)) as bar:
        for first in range(0, len(programs), _AT_ONCE):
            part = programs[first : first + _AT_ONCE]
            traces = [_trace(p, r) for p, r in zip(part, execute([_tracer(p) for p in part]), strict=True)]
            again = [p for p, trace in zip(part, traces, strict=True) if trace.end == OK]
            second = {p: _stepped(p, r) for p, r in zip(again, execute([_stepper(p) for p in again]), strict=True)}
            found += [
                _agreed(p, trace, second[p]) if p in second else trace for p, trace in zip(part, traces, strict=True)
            ]
            bar.advance(len(part))
    return found


def _agreed(program: Program, trace: Trace, second: Trace) -> Trace:
    if second.value != trace.value:
        return Trace("another value when run again")
    # Dictionaries are equal in any order, but the order of variables is part of a trace.
    ours, theirs = ([(s.line, s.moved, *s.state.items()) for s in t.steps] for t in (trace, second))
    if ours != theirs:
        return Trace("the two routes differ")
    return replace(trace, form=f"{seed_of('program', normal_form(program.source)):016x}")


def settable(program: Program) -> list[Change]:
    """The integers that a step has just set (parameters at a call included), as they are. The last step's are not."""
    end, steps, _ = _report(execute([_tracer(program)])[0])
    last = len(steps) - 1
    written = [(k, name, value) for k, step in enumerate(steps) for name, value in step[3] if k < last]
    return [Change(*found) for found in written] if end == OK else []


def trace_changed(program: Program, change: Change) -> Trace:
    """The trace of the program with one variable set otherwise on the way."""
    return _trace(program, execute([_tracer(Program(program.source), change)])[0])

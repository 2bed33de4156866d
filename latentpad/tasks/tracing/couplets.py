"""Execution traces as text, in the two spellings; and a reader of them that shares no code with the writer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from latentpad.tasks import ScratchpadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from latentpad.tasks.tracing.execution import Step

_SHOWN = 80


def spell_trace(steps: Sequence[Step], spelling: str) -> str:
    """All steps.

    `nye`: `state: {}`, then for each step `line: <the line>` and `state: <all variables>`. `compact`: a line for each,
    `<the line, not indented>#<what has changed>`; see `spell_step`.
    """
    lines = ["state: {}"] if spelling == "nye" else []
    state: dict[str, str] = {}
    for step in steps:
        lines += spell_step(step, state, spelling)
        state = step.state
    return "\n".join(lines)


def spell_step(step: Step, before: dict[str, str], spelling: str) -> list[str]:
    """The lines of one step. In `compact`: what has changed, or in braces all variables, where another frame goes on.

    >>> from latentpad.tasks.tracing.execution import Step
    >>> spell_step(Step("  x += 1", {"x": "3", "y": "2"}), {"x": "2", "y": "2"}, "compact")
    ['x += 1#x=3']
    >>> spell_step(Step("  return x", {"output": "3"}, moved=True), {"x": "3", "y": "2"}, "compact")
    ['return x#{output=3}']
    """
    if spelling == "nye":
        state = ", ".join(f"{json.dumps(name)}: {value}" for name, value in step.state.items())
        return [f"line: {step.line}", f"state: {{{state}}}"]
    whole = step.moved or not before.keys() <= step.state.keys()  # a deleted variable shows like that too
    shown = {name: value for name, value in step.state.items() if whole or before.get(name) != value}
    changes = ", ".join(f"{name}={value}" for name, value in shown.items())
    return [f"{step.line.strip()}#{{{changes}}}" if whole else f"{step.line.strip()}#{changes}"]


def check_couplets(found: list[str], steps: Sequence[Step], spelling: str) -> None:
    """Compare lines with the steps that a program takes.

    Raises:
        ScratchpadError: a line is wrong, missing or one too many.
    """
    expected = list(_nye(steps) if spelling == "nye" else _compact(steps))
    for number, (line, (text, why)) in enumerate(zip(found, expected, strict=False), 1):
        if line != text:
            raise ScratchpadError(f"line {number}: {line[:_SHOWN]!r} is wrong: {why}")
    if len(found) < len(expected):
        raise ScratchpadError(f"line {len(found) + 1} is missing: {expected[len(found)][1]}")
    if len(found) > len(expected):
        raise ScratchpadError(f"line {len(expected) + 1}: {found[len(expected)][:_SHOWN]!r} comes after the end")


def _nye(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """Each line that must stand there, and why."""
    yield "state: {}", "nothing is set before the program starts"
    for number, step in enumerate(steps, 1):
        yield "line: " + step.line, f"step {number} executes {step.line.strip()[:_SHOWN]!r}"
        variables = [f'"{name}": ' + step.state[name] for name in step.state]
        yield "state: {" + ", ".join(variables) + "}", f"it is not what {step.line.strip()[:_SHOWN]!r} leaves"


def _compact(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    known: list[tuple[str, str]] = []
    for number, step in enumerate(steps, 1):
        now = list(step.state.items())
        same_frame = not (step.moved or {name for name, _ in known} - set(step.state))
        pairs = [pair for pair in now if not (same_frame and pair in known)]
        text = ", ".join("=".join(pair) for pair in pairs)
        line = step.line.strip()
        yield line + "#" + (text if same_frame else "{" + text + "}"), f"step {number} is {line[:_SHOWN]!r}"
        known = now

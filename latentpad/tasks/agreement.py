"""Whether worked steps lead to the gold answer: a check by a solver, apart from who wrote the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentpad.tasks import ScratchpadError
from reward import Outcome, grade

if TYPE_CHECKING:
    from latentpad.tasks import WorkedTask
    from latentpad.types import Problem


def leads_to_gold(task: WorkedTask, problem: Problem, scratchpad: str) -> bool:
    """Whether the task's reader accepts every step, and what they lead to grades CORRECT."""
    try:
        answer = task.read_scratchpad(problem, scratchpad)
    except ScratchpadError:
        return False
    options = {**task.grader_options, "extraction": "tags"}  # the bare answer, without the mark of another rule
    return grade(task.grader, answer, problem.answer, **options).outcome is Outcome.CORRECT

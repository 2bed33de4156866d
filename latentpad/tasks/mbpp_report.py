"""What of MBPP can be used: `python -m latentpad.tasks.mbpp_report PATH` executes everything once and prints tables."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from typing import TYPE_CHECKING

from latentpad.progress import stage
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.tasks import SPLITS
from latentpad.tasks.mbpp import Mbpp
from latentpad.tasks.mbpp_program import gold_of
from latentpad.tasks.mbpp_rows import MbppRow, read_mbpp
from latentpad.tasks.tracing.couplets import spell_trace
from latentpad.tasks.tracing.execution import OK
from reward import GoldAnswerError, Outcome, grade_many

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latentpad.tasks.mbpp import Instance

# Nye et al. 2021 used the tokenizer of an unpublished model. Two guesses around what such tokenizers do with code.
LIMIT, PAPER_TASKS, PAPER_TOTAL = 512, 212, 500
TOKENIZERS: dict[str, Callable[[str], float]] = {
    "characters / 3": lambda text: len(text) / 3,
    "words, digits and signs, one each": lambda text: len(re.findall(r"[^\W\d]+|\d|[^\w\s]", text)),
}
_TOGETHER = 32


def failing_solutions(rows: Sequence[MbppRow]) -> list[str]:
    """A line for every row whose own program does not pass its own tests, by the grader `program`."""
    lines = []
    with stage("grading the rows' own programs", len(rows)) as bar:
        for first in range(0, len(rows), _TOGETHER):
            part = rows[first : first + _TOGETHER]
            lines += [f"  task {row.task_id}: {why}" for row, why in zip(part, _verdicts(part), strict=True) if why]
            bar.advance(len(part))
    return lines


def _verdicts(rows: Sequence[MbppRow]) -> list[str]:
    """Why each fails; nothing for those that pass."""
    items = [(row.code, gold_of(row, challenge=False), False) for row in rows]
    try:
        rewards = grade_many("program", items)
    except GoldAnswerError as error:
        return [str(error)] if len(rows) == 1 else [why for row in rows for why in _verdicts([row])]
    return ["" if r.outcome is Outcome.CORRECT else f"{r.outcome}, {r.detail}" for r in rewards]


def fitting(instances: Sequence[Instance], tokens: Callable[[str], float]) -> tuple[int, int, int]:
    """Traces within the limit, and of the test tasks those with all of their traces within it, and with any."""
    fit = {id(i) for i in instances if i.trace.end == OK and tokens(spell_trace(i.trace.steps, "nye")) <= LIMIT}
    tasks: dict[int, list[bool]] = {}
    for instance in instances:
        if instance.row.split == "test":
            tasks.setdefault(instance.row.task_id, []).append(id(instance) in fit)
    return len(fit), sum(map(all, tasks.values())), sum(map(any, tasks.values()))


def report(task: Mbpp, rows: Sequence[MbppRow]) -> list[str]:
    """The table."""
    instances = task.instances
    failing = failing_solutions(rows)
    ends: dict[str, list[Instance]] = {}
    for instance in instances:
        ends.setdefault(instance.trace.end, []).append(instance)
    test_tasks = sum(row.split == "test" for row in rows)
    lines = [
        f"rows: {len(rows)}, tests: {len(instances)}",
        f"own programs that pass their own tests (grader 'program'): {len(rows) - len(failing)} of {len(rows)}",
        *failing,
        "traces, made by execution and confirmed by a second route, of calls that return what their test says:",
        f"  {len(ends.get(OK, []))} of {len(instances)}",
    ]
    for end, found in sorted(ends.items()):
        if end != OK:
            tasks = sorted({instance.row.task_id for instance in found})
            lines.append(f"  left out, {end}: {len(found)} (tasks {', '.join(map(str, tasks))})")
    lines.append(f"traces of at most {LIMIT} tokens (their tokenizer is not public, so by two stand-ins):")
    for name, tokens in TOKENIZERS.items():
        fit, every, some = fitting(instances, tokens)
        lines.append(
            f"  {name}: {fit} of {len(instances)} traces; test tasks with all traces {every}, with any {some}, "
            f"of {test_tasks} (paper: {PAPER_TASKS} of {PAPER_TOTAL})"
        )
    lines.append(f"problems of the task 'mbpp' ({task.spelling}, max_trace_characters {task.max_trace_characters}):")
    lines += [f"  {line}" for line in task.coverage()]
    for cell in task.cells:
        counts = ", ".join(f"{len(task.distinct(split, cell, len(instances)))} {split}" for split in SPLITS)
        lines.append(f"  {cell}: {counts}")
    return lines


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m latentpad.tasks.mbpp_report", description="What of MBPP can be used."
    )
    parser.add_argument("path", nargs="?", help="a local JSONL file; without it, the dataset on the hub")
    parser.add_argument("--cache", help="folder for traces (default: the task's own)")
    parser.add_argument("--max-trace-characters", type=int, default=Mbpp.max_trace_characters)
    options = parser.parse_args(arguments)
    try:
        rows = list(read_mbpp(options.path, None))
        task = Mbpp(options.path, cache=options.cache, max_trace_characters=options.max_trace_characters)
        print("\n".join(report(task, rows)))  # noqa: T201
    except (RecipeError, MachineError) as error:
        print(f"mbpp: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, RecipeError) else 3
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    sys.exit(main(sys.argv[1:]))

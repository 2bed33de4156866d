"""Documents and examples made of problems: the pretraining corpus, and what the supervised arms are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.seeding import name_of, rng_of
from latentpad.tasks import worked as worked_task

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.tasks import Task


@dataclass(frozen=True, slots=True)
class Example:
    """What a supervised loss sees: prompt and response. No RL arm ever gets one."""

    prompt: str
    response: str


def training_example(task: Task, text_format: Format, seed: int, *names: str | int, worked: bool) -> Example:
    """A train problem of a cell drawn uniformly, with its gold scratchpad or with the answer alone."""
    name = name_of(seed, *names)
    cell = rng_of("cell", name).choice(task.cells)
    problem = task.draw("train", cell, name)
    scratchpad = worked_task(task).gold_scratchpad(problem) if worked else None
    return Example(text_format.prompt(problem.question), text_format.response(task.solution(problem), scratchpad))


def corpus_document(task: Task, text_format: Format, seed: int, step: int, index: int, *, share: float) -> Example:
    """A document of the pretraining corpus: worked with probability `share`, else it states the answer directly."""
    worked = rng_of("worked", seed, step, index).random() < share
    return training_example(task, text_format, seed, "corpus", step, index, worked=worked)

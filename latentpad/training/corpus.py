"""Documents and examples made of problems: the pretraining corpus, and what the supervised arms are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.seeding import name_of, rng_of
from latentpad.tasks import primitive_task
from latentpad.tasks import worked as worked_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.formats import Format
    from latentpad.recipe.schema import PretrainSection
    from latentpad.tasks import Task


@dataclass(frozen=True, slots=True)
class Example:
    """What a supervised loss sees: prompt and response. No RL arm ever gets one."""

    prompt: str
    response: str


def training_example(
    task: Task, text_format: Format, seed: int, *names: str | int, worked: bool, cells: Sequence[str] | None = None
) -> Example:
    """A train problem of a cell drawn uniformly from `cells` or all, with its gold scratchpad or its answer alone."""
    name = name_of(seed, *names)
    cell = rng_of("cell", name).choice(cells or task.cells)
    problem = task.draw("train", cell, name)
    scratchpad = worked_task(task).gold_scratchpad(problem) if worked else None
    return Example(text_format.prompt(problem.question), text_format.response(task.solution(problem), scratchpad))


def corpus_document(
    task: Task, text_format: Format, section: PretrainSection, seed: int, step: int, index: int
) -> Example:
    """A document of the pretraining corpus: worked, a primitive, or a problem with its answer, by their shares."""
    draw = rng_of("worked", seed, step, index).random()
    if draw >= 1 - (section.primitive_share or 0):
        return Example("", primitive_task(task).primitive(name_of(seed, "primitive", step, index)))
    worked = draw < section.scratchpad_share
    cells = (section.worked_cells or section.cells) if worked else section.cells
    return training_example(task, text_format, seed, "corpus", step, index, worked=worked, cells=cells)

"""Documents and examples made of problems: the pretraining corpus, and what the supervised arms are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentpad.seeding import name_of, rng_of
from latentpad.tasks import primitive_task
from latentpad.tasks import worked as worked_task
from latentpad.training.filler import filler_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.formats import Format
    from latentpad.recipe.method_schema import PretrainSection
    from latentpad.tasks import Task
    from latentpad.types import Problem


@dataclass(frozen=True, slots=True)
class Example:
    """What a supervised loss sees: prompt and response. No RL arm ever gets one."""

    prompt: str
    response: str


def training_example(
    task: Task, text_format: Format, seed: int, *names: str | int, worked: bool, cells: Sequence[str] | None = None
) -> Example:
    """A train problem of a cell drawn uniformly from `cells` or all, with its gold scratchpad or its answer alone."""
    problem = training_problem(task, seed, *names, cells=cells)
    scratchpad = worked_task(task).gold_scratchpad(problem) if worked else None
    return example_of(task, text_format, problem, scratchpad)


def training_problem(task: Task, seed: int, *names: str | int, cells: Sequence[str] | None = None) -> Problem:
    """A train problem of a cell drawn uniformly from `cells` or all: the same whatever is shown of it."""
    name = name_of(seed, *names)
    return task.draw("train", rng_of("cell", name).choice(cells or task.cells), name)


def example_of(task: Task, text_format: Format, problem: Problem, scratchpad: str | None = None) -> Example:
    """A problem with its answer, after a scratchpad if one is given."""
    return Example(text_format.prompt(problem.question), text_format.response(task.solution(problem), scratchpad))


def filler_example(task: Task, text_format: Format, problem: Problem, filler: str, tokenizer: Any) -> Example:
    """A problem with its answer after fillers, to the token as long as with its gold scratchpad."""
    scratchpad, answer = worked_task(task).gold_scratchpad(problem), task.solution(problem)
    return Example(
        text_format.prompt(problem.question), filler_response(tokenizer, text_format, filler, scratchpad, answer)
    )


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

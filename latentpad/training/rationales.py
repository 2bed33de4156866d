"""`supervised.target: mixture`: some examples show a rationale, which must lead to the gold answer, and some do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from latentpad.recipe.errors import RecipeError
from latentpad.seeding import rng_of
from latentpad.tasks import worked
from latentpad.tasks.agreement import leads_to_gold
from latentpad.training.corpus import example_of, training_example, training_problem

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.training.corpus import Example
    from latentpad.types import Problem

# Judged after so many: a share above this of rationales that do not lead to the gold answer is refused.
_JUDGED_AFTER, _MOST_LEFT_OUT = 50, 0.9
# Draws in a row without a new problem, for each that was found, until the cells are taken to have no more.
_PATIENCE = 50


@dataclass
class Rationales:
    """Draws problems whose gold scratchpad leads to the gold answer, and counts the others.

    The filter of the CoT Collection (Kim et al. 2023, arXiv 2305.14045) keeps a rationale where it agrees with the gold
    answer; here the task's own reader judges, step by step.

    Attributes:
        looked_at, left_out: rationales so far.
    """

    recipe: Recipe
    task: Task
    looked_at: int = field(default=0, init=False)
    left_out: int = field(default=0, init=False)

    def problem(self, *names: str | int) -> Problem:
        """The first train problem of those that the names draw whose rationale may be taught.

        Raises:
            RecipeError: nearly none may.
        """
        assert self.recipe.supervised is not None
        cells, tries = self.recipe.supervised.cells, 0
        while True:
            again = ("again", tries) if tries else ()
            problem = training_problem(self.task, self.recipe.seed, *names, *again, cells=cells)
            self.looked_at += 1
            tries += 1
            taught = worked(self.task)
            if leads_to_gold(taught, problem, taught.gold_scratchpad(problem)):
                return problem
            self.left_out += 1
            if self.looked_at >= _JUDGED_AFTER and self.left_out > _MOST_LEFT_OUT * self.looked_at:
                raise RecipeError(
                    f"supervised.target: 'mixture' left out {self.left_out} of {self.looked_at} rationales that do not "
                    "lead to the gold answer: mend the task's scratchpads, or take another target"
                )

    def different(self, count: int) -> list[Problem]:
        """The first `count` problems drawn that differ as canonical instances; fewer are the first of more.

        Raises:
            RecipeError: the cells do not have so many, or nearly no rationale may be taught.
        """
        found: dict[str, Problem] = {}
        draws = last_new = 0
        while len(found) < count:
            problem = self.problem("rationale", draws)
            draws += 1
            if self.task.canonical(problem) not in found:
                found[self.task.canonical(problem)] = problem
                last_new = draws
            if draws - last_new > _PATIENCE * len(found):
                raise RecipeError(
                    f"supervised.rationales: got {count}; the cells hold only about {len(found)} different train "
                    f"problems: set it to {len(found)} or less, or remove it"
                )
        return list(found.values())

    def line(self) -> str:
        """What was left out, for the run's record."""
        return (
            f"rationales: {self.left_out} of {self.looked_at} did not lead to the gold answer and were left out"
            if self.left_out
            else f"rationales: all {self.looked_at} that were looked at lead to the gold answer"
        )


def mixture_examples(recipe: Recipe, task: Task, text_format: Format) -> tuple[list[Example], str]:
    """Every example of the run, and a line on what was left out.

    Each is worked with the probability `rationale_share`, by a draw of its own; those that are not are the very
    examples of `target: answer` at their places. With `rationales` N the worked ones are of N problems, each as likely
    as any other. Raises `RecipeError` as `Rationales` does.
    """
    section = recipe.supervised
    assert section is not None
    rationales = Rationales(recipe, task)
    few = None if section.rationales is None else rationales.different(section.rationales)
    examples = []
    for i in range(recipe.training.steps * section.examples_per_step):
        if rng_of("rationale share", recipe.seed, i).random() >= (section.rationale_share or 0.0):
            made = training_example(task, text_format, recipe.seed, "supervised", i, worked=False, cells=section.cells)
        else:
            problem = (
                rationales.problem("supervised", i) if few is None else rng_of("rationale", recipe.seed, i).choice(few)
            )
            made = example_of(task, text_format, problem, worked(task).gold_scratchpad(problem))
        examples.append(made)
    return examples, rationales.line()

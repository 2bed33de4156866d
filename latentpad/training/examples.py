"""What the supervised arms are shown: one example a draw, by `supervised.target`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentpad.tasks import worked
from latentpad.training.corpus import Example, filler_example, training_example, training_problem
from latentpad.training.filler import check_filler
from latentpad.training.rationales import mixture_examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentpad.formats import Format
    from latentpad.recipe.method_schema import SupervisedSection
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task


def supervised_examples(
    recipe: Recipe,
    task: Task,
    text_format: Format,
    tokenizer: Any = None,
    note: Callable[[list[str]], None] = lambda _: None,
) -> list[Example]:
    """Every example of the run in the order it is used: `steps * examples_per_step`, none shown twice on purpose.

    But for the `rationales` of a mixture, every target is taught on the same problems, in the same order. Whatever it
    is, the loss is on the whole response, each of its tokens alike: of Nye's scratchpad and tags as of the answer, and
    so of every filler too (cf. Pfau et al. 2024, arXiv 2404.15758). A constant is soon predicted for nothing, and then
    the answer is all that is left to learn, in a mean over as many tokens as Nye's.

    Args:
        tokenizer: the policy's; only `target: filler` counts in its tokens.
        note: takes what is to be said of the examples.

    Raises:
        RecipeError: the filler cannot be as long as a scratchpad, or too few rationales lead to the gold answer.
    """
    assert recipe.supervised is not None
    section = recipe.supervised
    if section.target == "mixture":
        examples, line = mixture_examples(recipe, task, text_format)
        note([line])
        return examples
    count = recipe.training.steps * section.examples_per_step
    if section.filler is None:
        return [
            training_example(
                *(task, text_format, recipe.seed, "supervised", i),
                worked=section.target == "scratchpad",
                cells=section.cells,
            )
            for i in range(count)
        ]
    problems = [training_problem(task, recipe.seed, "supervised", i, cells=section.cells) for i in range(count)]
    return [filler_example(task, text_format, problem, section.filler, tokenizer) for problem in problems]


def check_supervised(section: SupervisedSection, task: Task, text_format: Format, tokenizer: Any) -> None:
    """There must be scratchpads to teach, and a filler that can be as long as they are.

    Args:
        tokenizer: raw, of the `tokenizers` package.

    Raises:
        RecipeError: one of these is not so.
    """
    if section.target != "answer":
        worked(task)
    if section.filler is not None:
        check_filler(tokenizer, section.filler, "supervised.filler")
        for problem in map(task.longest, task.cells):
            filler_example(task, text_format, problem, section.filler, tokenizer)

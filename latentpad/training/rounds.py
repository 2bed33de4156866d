"""The rounds of expert iteration before anything is sampled: their steps, and what the hint asks. Imports no torch."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from latentpad.models.tokenizer import encode_strictly
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.types import Problem


def shared_out(steps: int, rounds: int, growth: float) -> list[int]:
    """The steps of each round, `growth` times those of the round before up to rounding; they sum to `steps`.

    Raises:
        RecipeError: a round would have no step.

    >>> shared_out(100, 3, 1.0), shared_out(70, 3, 2.0)
    ([33, 34, 33], [10, 20, 40])
    """
    parts = [growth ** (number - rounds + 1) for number in range(rounds)]  # the last is 1: none is too large
    ends = [0, *(int(steps * sum_so_far / sum(parts) + 0.5) for sum_so_far in accumulate(parts))]
    counts = [end - start for start, end in pairwise(ends)]
    if min(counts) < 1:
        raise RecipeError(
            f"training.steps: got {steps}; {rounds} rounds with a growth of {growth:g} leave round "
            f"{counts.index(min(counts)) + 1} without a step: give more, or lower expert_iteration.rounds or .growth"
        )
    return counts


def steps_of_rounds(recipe: Recipe) -> list[int]:
    """Of a recipe of method `expert_iteration`. Raises `RecipeError`."""
    section = recipe.expert_iteration
    assert section is not None
    return shared_out(recipe.training.steps, section.rounds, section.growth)


def place_in_rounds(counts: list[int], step: int) -> tuple[int, int]:
    """Round and step in it, both from 0, of a step of the run (from 0).

    >>> [place_in_rounds([2, 3], step) for step in (0, 1, 2, 4)]
    [(0, 0), (0, 1), (1, 0), (1, 2)]
    """
    for number, count in enumerate(counts):
        if step < count:
            return number, step
        step -= count
    raise IndexError("the run has no such step")


def hinted_question(hint: str, problem: Problem) -> str:
    """The question with its gold answer shown; never a gold scratchpad.

    Raises:
        RecipeError: the template asks for something else.
    """
    try:
        return hint.format(question=problem.question, answer=problem.answer)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"expert_iteration.hint: got {hint!r}; expected a template with {{question}} and {{answer}} alone (double "
            "any other brace)"
        ) from error


def check_expert_iteration(
    recipe: Recipe, task: Task, text_format: Format, tokenizer: Any, positions: int
) -> list[str]:
    """What such a recipe asks must go together, and fit a model of so many positions; of any other nothing is said.

    Raises:
        RecipeError: what does not.
    """
    if recipe.expert_iteration is None:
        return []
    check_hint(recipe, task, text_format, tokenizer, positions)
    return [check_rounds(recipe)]


def check_rounds(recipe: Recipe) -> str:
    """The numbers of the section must go together; says what a run comes to.

    Raises:
        RecipeError: a round without a step, a warm-up as long as a round, or a key that would have no effect.
    """
    section, warmup = recipe.expert_iteration, recipe.training.warmup_steps
    assert section is not None
    counts = steps_of_rounds(recipe)
    if warmup >= min(counts):
        raise RecipeError(
            f"training.warmup_steps: got {warmup}; each round warms up anew, and the shortest has {min(counts)} steps: "
            "expected fewer"
        )
    if (section.keep_per_prompt or 0) > section.samples_per_prompt:
        raise RecipeError(
            f"expert_iteration.keep_per_prompt: got {section.keep_per_prompt}, which is more than samples_per_prompt "
            f"({section.samples_per_prompt}): remove it to keep all"
        )
    if section.rounds == 1 and (section.restart, section.growth) != ("base", 1.0):
        raise RecipeError("expert_iteration: 'restart' and 'growth' are of several rounds, and this is 1: remove them")
    asked = f"{section.prompts_per_round} prompts x {section.samples_per_prompt}"
    if section.rounds == 1:
        return f"one round of {counts[0]} steps on right responses of {asked}"
    return f"{section.rounds} rounds of {', '.join(map(str, counts))} steps, each on right responses of {asked}"


def check_hint(recipe: Recipe, task: Task, text_format: Format, tokenizer: Any, positions: int) -> None:
    """The tokenizer must spell the longest hinted prompts, and the model must have room for them and a response.

    Raises:
        RecipeError: they do not.
    """
    section, limit = recipe.expert_iteration, recipe.rollout.max_new_tokens
    if section is None or section.hint is None:
        return
    for problem in map(task.longest, task.cells):
        try:
            prompt = encode_strictly(tokenizer, text_format.prompt(hinted_question(section.hint, problem)))
        except RecipeError as error:
            key = "expert_iteration.hint: "
            raise RecipeError(f"{key}{str(error).removeprefix(key)}") from error
        if len(prompt) + limit > positions:
            raise RecipeError(
                f"expert_iteration.hint: the hinted prompt of {problem.cell} takes {len(prompt)} tokens and a response "
                f"up to {limit} (rollout.max_new_tokens); the model has room for {positions}"
            )

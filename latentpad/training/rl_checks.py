"""What can be found wrong with a recipe of `method: rl` before anything heavy is loaded. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.algorithms import AnswerAlgorithm, CriticAlgorithm, MemoryAlgorithm, build_algorithm
from latentpad.models.tokenizer import encode_strictly
from latentpad.recipe.errors import RecipeError
from reward import CLOSE_TAG

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task


def check_rl(recipe: Recipe, task: Task) -> None:
    """What an RL recipe names must be there, and its numbers must go together. Raises `RecipeError`."""
    section, algorithm = recipe.rl_section, recipe.algorithm
    assert algorithm is not None
    built, limit, steps = build_algorithm(algorithm), recipe.rollout.max_new_tokens, recipe.training.steps
    if built.needs.overlong_buffer >= limit:
        raise RecipeError(
            f"algorithm.overlong_buffer: got {built.needs.overlong_buffer}; expected less than "
            f"rollout.max_new_tokens ({limit})"
        )
    if recipe.rollout.staleness and built.needs.sampling_rounds > 1:
        raise RecipeError(
            "rollout.max_staleness: a step that is sampled ahead cannot be sampled again: set it to 0, or "
            "algorithm.sampling_rounds to 1"
        )
    if section.signal in ("vote", "format", "shuffled") and built.needs.sampling_rounds > 1:
        raise RecipeError(
            f"rl.signal: {section.signal!r} does without the grader, and algorithm.sampling_rounds picks groups by it: "
            "set it to 1"
        )
    if section.signal == "process":
        from latentpad.training.process_reward import check_process  # by the one control that it is for

        check_process(recipe, built, task)
    if isinstance(built, (AnswerAlgorithm, MemoryAlgorithm)):
        _check_one_update(recipe, built)
    if isinstance(built, CriticAlgorithm) and built.critic.pretraining_steps >= steps:
        raise RecipeError(
            f"algorithm.critic.pretraining_steps: got {built.critic.pretraining_steps}; expected fewer than "
            f"training.steps ({steps}): they are the first of them"
        )
    if section.kl is not None and section.kl.reference not in ("base", "moving"):
        reference = Path(section.kl.reference)
        if not reference.is_dir():
            raise RecipeError(f"rl.kl.reference: got {section.kl.reference!r}; expected base, moving, or a checkpoint")


def _check_one_update(recipe: Recipe, algorithm: AnswerAlgorithm | MemoryAlgorithm) -> None:
    """Of an algorithm without a ratio to the sampler: what it holds for, and what would have no effect or another."""
    section, name = recipe.rl_section, recipe.algorithm and recipe.algorithm.name
    holds = f"{name!r} holds for one update on the policy that sampled: set it to"
    for key, value, least in (
        ("rl.epochs", section.epochs, 1),
        ("rl.minibatches", section.minibatches, 1),
        ("rollout.max_staleness", recipe.rollout.staleness, 0),
    ):
        if value > least:
            raise RecipeError(f"{key}: got {value}; {holds} {least}")
    if recipe.rollout.correction is not None:
        raise RecipeError(f"rollout.correction: {name!r} has no weights to correct: remove it")
    if section.signal != "answer":
        raise RecipeError(f"rl.signal: got {section.signal!r}; expected 'answer': {name!r} learns from nothing else")
    if section.half_length is not None:
        raise RecipeError(f"rl.half_length: {name!r} knows no price of length: remove it")
    pays = isinstance(algorithm, AnswerAlgorithm) and algorithm.pays_kl
    if section.kl is not None and section.kl.place == "reward" and not pays:
        raise RecipeError(f"rl.kl.place: got 'reward'; {name!r} has no reward to take it from: set it to 'loss'")
    if isinstance(algorithm, MemoryAlgorithm) and section.problems is None:
        raise RecipeError(
            f"rl.problems: {name!r} learns from remembered responses, so the same problems must come again: say how "
            "many different ones of each cell"
        )


def check_gold_fits(recipe: Recipe, task: Task, text_format: Format, tokenizer: Any, positions: int) -> None:
    """Where gold answers are learned after sampled scratchpads, one must fit after the longest that is not closed.

    Raises:
        RecipeError: the model has too few positions.
    """
    assert recipe.algorithm is not None
    algorithm, limit = build_algorithm(recipe.algorithm), recipe.rollout.max_new_tokens
    if not isinstance(algorithm, AnswerAlgorithm) or algorithm.target != "reference":
        return
    closing = f"{CLOSE_TAG}{text_format.line_break}" if recipe.scratchpad == "free" else ""
    for cell in task.cells:
        problem = task.longest(cell)
        prompt = len(encode_strictly(tokenizer, text_format.prompt(problem.question)))
        answer = len(encode_strictly(tokenizer, closing + task.solution(problem))) + 1
        if prompt + limit + answer > positions:
            raise RecipeError(
                f"rollout.max_new_tokens: got {limit}; with a prompt of {prompt} tokens ({cell}) and after it all the "
                f"gold answer of {answer} the model has room for {positions}: set it to "
                f"{positions - prompt - answer} or less"
            )

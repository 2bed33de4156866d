"""What advantages are made of: rewards, or what a control puts in their place, and what a recipe adds to them.

No scratchpad's content is looked at, but by the one control that says so: see `process_reward`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from latentpad.algorithms.dapo import overlong_penalty
from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of
from latentpad.training.episodes import shown_answer
from latentpad.types import FinishReason
from reward import CLOSE_TAG, OPEN_TAG, Outcome, extract_scratchpad, grade_many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.algorithms import Needs
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.types import Episode, Group, Problem

# Draws until a cell is taken to hold one problem only.
_MOST_DRAWS = 1000


def scratchpad_tokens(policy: Policy, response: str) -> int:
    """How long a response's scratchpad is, in tokens, its tags left out."""
    pad = extract_scratchpad(response).removeprefix(OPEN_TAG).removesuffix(CLOSE_TAG)
    return len(policy.tokenizer.encode(pad, add_special_tokens=False)) if pad else 0


def by_vote(group: Group, task: Task) -> list[bool]:
    """Whether each answer is the one that the group gave most often (of equals, the one given first).

    A vote in place of a verdict: Zuo et al. 2025 (arXiv 2504.16084), and the filter of Lee et al. 2025 (2502.01612). A
    response without an answer has no vote and never agrees. Answers are compared as they are spelt.
    """
    answers = [shown_answer(task, episode.response) for episode in group.episodes]
    votes = Counter(answer for answer in answers if answer is not None)
    winner = votes.most_common(1)[0][0] if votes else None
    return [answer is not None and answer == winner for answer in answers]


def verdicts(groups: Sequence[Group], task: Task, recipe: Recipe) -> list[list[bool]]:
    """What counts as right in this run, by group: the grader's verdict, or with `rl.signal: vote` the group's own.

    A ladder climbs by it. Under all other controls that is the true verdict, whatever is learned from.
    """
    if recipe.rl_section.signal == "vote":
        return [by_vote(group, task) for group in groups]
    return [[episode.reward.outcome is Outcome.CORRECT for episode in group.episodes] for group in groups]


def by_form(group: Group) -> list[float]:
    """1 for every answer that could be read, right or wrong, else 0: a reward for form alone."""
    return [float(e.reward.outcome in (Outcome.CORRECT, Outcome.WRONG)) for e in group.episodes]


def other_problem(problem: Problem, task: Task, recipe: Recipe, step: int) -> Problem:
    """Another train problem of the same cell, drawn by the seed, the step and the problem.

    Raises:
        RecipeError: the cell has no other.
    """
    for number in range(_MOST_DRAWS):
        name = name_of("shuffled", recipe.seed, step, problem.id, number)
        drawn = task.draw("train", problem.cell, name)
        if task.canonical(drawn) != task.canonical(problem):
            return drawn
    raise RecipeError(f"rl.signal: 'shuffled' needs a second problem in cell {problem.cell!r}: take larger cells")


def by_other_answers(group: Group, task: Task, recipe: Recipe, step: int) -> list[float]:
    """What each response earns against the gold answer of another problem, one for the whole group.

    Rewards of the usual kind and noise that say nothing about the question; an answer that many problems of the cell
    share still earns more often. Where the grader breaks on one of them none of the group earns anything.
    """
    gold = other_problem(group.prompt.problem, task, recipe, step).answer
    items = [(e.response, gold, e.rollout.finish_reason is FinishReason.LENGTH) for e in group.episodes]
    rewards = grade_many(task.grader, items, **task.grader_options)
    broke = any(reward.outcome is Outcome.GRADER_FAILED for reward in rewards)
    return [0.0 if broke else reward.value for reward in rewards]


def worth(groups: Sequence[Group], task: Task, recipe: Recipe, step: int) -> list[list[float]]:
    """What each rollout is worth by `rl.signal`, before anything is taken off for length.

    Raises:
        RecipeError: the task cannot serve the signal.
    """
    match recipe.rl_section.signal:
        case "vote":
            return [[float(agrees) for agrees in by_vote(group, task)] for group in groups]
        case "format":
            return [by_form(group) for group in groups]
        case "shuffled":
            return [by_other_answers(group, task, recipe, step) for group in groups]
        case "process":
            from latentpad.training.process_reward import process_values  # the one arm that is told of worked steps

            return process_values(groups, task, recipe)
    return [[episode.reward.value for episode in group.episodes] for group in groups]


def earned(policy: Policy, episode: Episode, recipe: Recipe, needs: Needs, *, value: float | None = None) -> float:
    """The reward of one rollout after what the recipe and the algorithm take off for length.

    A `value` that a control gives takes the place of what the grader says.
    """
    if value is None:
        value = episode.reward.value
    if (half := recipe.rl_section.half_length) is not None:
        value *= half / (half + scratchpad_tokens(policy, episode.response))
    if needs.overlong_buffer:
        limit = recipe.rollout.max_new_tokens
        value += overlong_penalty(len(episode.rollout.token_ids), limit, needs.overlong_buffer)
    return value


def training_signal(
    groups: Sequence[Group], policy: Policy, task: Task, recipe: Recipe, needs: Needs, step: int
) -> list[list[float]]:
    """What every rollout earned by group, by `rl.signal`; `random` deals what was earned out among all of them.

    Raises:
        RecipeError: the task cannot serve the signal.
    """
    values = worth(groups, task, recipe, step)
    signal = [
        [earned(policy, episode, recipe, needs, value=value) for episode, value in zip(g.episodes, row, strict=True)]
        for g, row in zip(groups, values, strict=True)
    ]
    if recipe.rl_section.signal != "random":
        return signal
    flat = [value for row in signal for value in row]
    rng_of("random signal", recipe.seed, step).shuffle(flat)
    dealt = iter(flat)
    return [[next(dealt) for _ in row] for row in signal]

"""What advantages are made of: rewards, and what a recipe adds to them. No scratchpad's content is looked at."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from latentpad.algorithms.dapo import overlong_penalty
from latentpad.seeding import rng_of
from latentpad.training.episodes import shown_answer
from reward import CLOSE_TAG, OPEN_TAG, Outcome, extract_scratchpad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.algorithms import Needs
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.types import Episode, Group


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
    """What counts as right in this run, by group: the grader's verdict, or with `rl.signal: vote` the group's own."""
    if recipe.rl_section.signal == "vote":
        return [by_vote(group, task) for group in groups]
    return [[episode.reward.outcome is Outcome.CORRECT for episode in group.episodes] for group in groups]


def earned(policy: Policy, episode: Episode, recipe: Recipe, needs: Needs, *, agrees: bool | None = None) -> float:
    """The reward of one rollout after what the recipe and the algorithm take off for length.

    `agrees` with the vote takes the place of what the grader says.
    """
    value = episode.reward.value if agrees is None else float(agrees)
    if (half := recipe.rl_section.half_length) is not None:
        value *= half / (half + scratchpad_tokens(policy, episode.response))
    if needs.overlong_buffer:
        limit = recipe.rollout.max_new_tokens
        value += overlong_penalty(len(episode.rollout.token_ids), limit, needs.overlong_buffer)
    return value


def training_signal(
    groups: Sequence[Group], policy: Policy, task: Task, recipe: Recipe, needs: Needs, step: int
) -> list[list[float]]:
    """What every rollout earned by group; what the group's vote gives it; or what was earned, dealt out at random."""
    kind = recipe.rl_section.signal
    if kind == "vote":
        return [
            [earned(policy, e, recipe, needs, agrees=a) for e, a in zip(g.episodes, by_vote(g, task), strict=True)]
            for g in groups
        ]
    signal = [[earned(policy, episode, recipe, needs) for episode in group.episodes] for group in groups]
    if kind == "answer":
        return signal
    flat = [value for row in signal for value in row]
    rng_of("random signal", recipe.seed, step).shuffle(flat)
    dealt = iter(flat)
    return [[next(dealt) for _ in row] for row in signal]

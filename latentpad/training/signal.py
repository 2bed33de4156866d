"""What advantages are made of: rewards, and what a recipe adds to them. No scratchpad's content is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentpad.algorithms.dapo import overlong_penalty
from latentpad.seeding import rng_of
from reward import CLOSE_TAG, OPEN_TAG, extract_scratchpad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.algorithms import Needs
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.types import Episode, Group


def scratchpad_tokens(policy: Policy, response: str) -> int:
    """How long a response's scratchpad is, in tokens, its tags left out."""
    pad = extract_scratchpad(response).removeprefix(OPEN_TAG).removesuffix(CLOSE_TAG)
    return len(policy.tokenizer.encode(pad, add_special_tokens=False)) if pad else 0


def earned(policy: Policy, episode: Episode, recipe: Recipe, needs: Needs) -> float:
    """The reward of one rollout after what the recipe and the algorithm take off for length."""
    value = episode.reward.value
    if (half := recipe.rl_section.half_length) is not None:
        value *= half / (half + scratchpad_tokens(policy, episode.response))
    if needs.overlong_buffer:
        limit = recipe.rollout.max_new_tokens
        value += overlong_penalty(len(episode.rollout.token_ids), limit, needs.overlong_buffer)
    return value


def training_signal(
    groups: Sequence[Group], policy: Policy, recipe: Recipe, needs: Needs, step: int
) -> list[list[float]]:
    """What every rollout earned by group, or the same numbers dealt out at random within the step."""
    signal = [[earned(policy, episode, recipe, needs) for episode in group.episodes] for group in groups]
    if recipe.rl_section.signal == "answer":
        return signal
    flat = [value for row in signal for value in row]
    rng_of("random signal", recipe.seed, step).shuffle(flat)
    dealt = iter(flat)
    return [[next(dealt) for _ in row] for row in signal]

"""What is told of a step: means over its rollouts, and over its optimizer steps."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from latentpad.training.collect import has_signal, outcome_rates
from latentpad.training.signal import scratchpad_tokens
from reward import Outcome, writes_scratchpad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.models.policy import Policy
    from latentpad.types import Group


def step_metrics(policy: Policy, groups: Sequence[Group], signal: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over the step's rollouts; `entropy` is the mean of -logprob of the sampled tokens, in nats a token.

    Args:
        policy: for its tokenizer.
        groups: all that were sampled.
        signal: what those that are learned from earned.
    """
    episodes = [episode for group in groups for episode in group.episodes]
    right = [fmean(e.reward.outcome is Outcome.CORRECT for e in group.episodes) for group in groups]
    logprobs = [value for episode in episodes for value in episode.rollout.logprobs]
    return {
        "reward": fmean(episode.reward.value for episode in episodes),
        "signal": fmean(value for row in signal for value in row) if signal else 0.0,
        "scratchpad_rate": fmean(writes_scratchpad(episode.response) for episode in episodes),
        "scratchpad_tokens": fmean(scratchpad_tokens(policy, episode.response) for episode in episodes),
        "live_groups": fmean(has_signal(group) for group in groups),
        "all_right": fmean(share == 1 for share in right),
        "all_wrong": fmean(share == 0 for share in right),
        "entropy": -fmean(logprobs),
        "response_tokens": fmean(len(episode.rollout.token_ids) for episode in episodes),
        **outcome_rates(groups),
    }


def over_updates(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """One step's metrics from those of its optimizer steps: means, but the extremes of ratios.

    `mismatch_kl` is between sampler and learner before the first of them, when their weights are the same.
    """
    names = {name for update in updates for name in update}
    merged = {name: fmean(update[name] for update in updates if name in update) for name in sorted(names)}
    for name, extreme in (("ratio_low", min), ("ratio_high", max), ("effective_samples", min)):
        if name in merged:
            merged[name] = extreme(update[name] for update in updates if name in update)
    if (sampler_kl := merged.pop("sampler_kl", None)) is not None:
        merged["mismatch_kl"] = updates[0].get("sampler_kl", sampler_kl)
    return merged

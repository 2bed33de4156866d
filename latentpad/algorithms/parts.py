"""What several algorithms are made of: centred rewards, ratios, the clipped surrogate, estimates of a KL divergence."""

from __future__ import annotations

from math import fsum
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.types import TokenLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Added to a standard deviation before dividing by it, as in TRL.
EPSILON = 1e-4

KLEstimator = Literal["k1", "k2", "k3"]


def centred(group: Sequence[float]) -> list[float]:
    """Each reward minus the mean of its group; exactly 0 where all are equal.

    >>> centred([1, 0, 0, 1]), centred([0.1, 0.1, 0.1])
    ([0.5, -0.5, -0.5, 0.5], [0.0, 0.0, 0.0])
    """
    if len(set(group)) == 1:
        return [0.0] * len(group)
    mean = fmean(group)
    return [reward - mean for reward in group]


def group_scaled(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """(r - mean of the group) / (standard deviation of the group, with n - 1, + 1e-4), by group.

    >>> group_scaled([[1, 1, 0], [0, 0, 0]])[1]
    [0.0, 0.0, 0.0]
    """
    scales = [stdev(group) + EPSILON for group in rewards]
    return [[a / scale for a in centred(group)] for group, scale in zip(rewards, scales, strict=True)]


def check_clip(clip_low: float, clip_high: float) -> None:
    """Refuse a clipping range that cannot be meant.

    Raises:
        RecipeError: not 0 < clip_low <= 1 and 0 < clip_high.
    """
    if not (0 < clip_low <= 1 and clip_high > 0):  # a nan is neither
        raise RecipeError(f"clip_low {clip_low}, clip_high {clip_high}: expected 0 < clip_low <= 1, 0 < clip_high")


def token_ratio(logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Policy over sampler, token by token, [B, T]; where `mask` is false it is 1, and no gradient flows from there.

    Not even from a nan or an infinity: they are replaced before anything is multiplied by them.
    """
    return (logprobs - rollout_logprobs).masked_fill(~mask, 0.0).exp()


def others_mean(values: Sequence[float]) -> list[float]:
    """For each of two or more values the mean of the others.

    >>> others_mean([1, 0, 0.5])
    [0.25, 0.75, 0.5]
    """
    total, others = fsum(values), len(values) - 1
    return [(total - value) / others for value in values]


def likelihood_loss(logprobs: Tensor, coefficients: Tensor, mask: Tensor) -> TokenLoss:
    """-coefficient * logprob, unreduced, [B, T]: no ratio, no clipping; where `mask` is false 0, and no gradient."""
    return TokenLoss(-coefficients.masked_fill(~mask, 0.0) * logprobs.masked_fill(~mask, 0.0), {})


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> TokenLoss:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (Schulman et al. 2017, eq. 7), unreduced.

    Args:
        ratio: [B, T] policy over sampler.
        advantages: [B, T].
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
    """
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -(ratio * advantages).minimum(clipped * advantages)
    fraction = (ratio * advantages > clipped * advantages).detach().to(ratio.dtype)
    return TokenLoss(loss, {"clip_fraction": fraction})


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimates of KL(policy || reference) from tokens that the policy sampled (Schulman 2020), [B, T] in nats.

    With d = reference - policy logprob: k1 = -d (unbiased, may be negative), k2 = d^2 / 2 (biased in value), k3 =
    exp(d) - d - 1 (unbiased, never negative). In a loss, on policy, token by token, only k2 has the gradient of the KL
    divergence; that of k3 is the gradient of the reversed KL, that of k1 has mean 0. What a token does to the KL of
    those after it is in none of them: k1 in the reward has it.
    """
    difference = reference_logprobs - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return difference.exp() - difference - 1

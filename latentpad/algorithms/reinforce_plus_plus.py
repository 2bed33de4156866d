"""REINFORCE++ (Hu 2025, arXiv 2501.03262): rewards whitened over the whole step instead of over a group."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import EPSILON, centred, check_clip, clipped_surrogate, token_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class ReinforcePlusPlus:
    """Advantage (r - mean) / (std + 1e-4) over the whole step; loss -min(ratio A, clip(ratio) A) token by token.

    Mean and standard deviation (with n) are those of the step's response tokens, each with the reward of its rollout: a
    long response counts for more than a short one, as in OpenRLHF and verl. The published KL penalty in the reward is
    not part of it; the loop has its own.

    Attributes:
        baseline: subtract the mean of the group before (REINFORCE++-baseline, for several rollouts a prompt). The mean
            over all tokens is then nearly 0, but not quite: it is subtracted too, as in both of them, so that a group
            of equal rewards gets a small advantage where long responses did better or worse than short ones.
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
    """

    baseline: bool = False
    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> Needs:
        """A mean over tokens."""
        return Needs("token")

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum over the step's tokens; 0 if all rewards are equal.

        >>> [[round(a, 3) for a in row] for row in ReinforcePlusPlus().advantages([[1, 0], [0, 0]], [[4, 4], [4, 4]])]
        [[1.732, -0.577], [-0.577, -0.577]]
        """
        rows = [centred(group) for group in rewards] if self.baseline else rewards
        values = [value for row in rows for value in row]
        if len(set(values)) == 1:
            return [[0.0] * len(row) for row in rows]
        tokens = [length for row in lengths for length in row]
        mean = fmean(values, weights=tokens)
        spread = sqrt(fmean([(value - mean) ** 2 for value in values], weights=tokens))
        return [[(value - mean) / (spread + EPSILON) for value in row] for row in rows]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)

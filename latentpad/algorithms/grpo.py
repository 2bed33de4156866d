"""GRPO (Shao et al. 2024, arXiv 2402.03300): advantages relative to the group, clipped ratios."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import stdev
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import EPSILON, centred, check_clip, clipped_surrogate, group_scaled, token_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class GRPO:
    """Advantage (r - mean of the group) / (std + 1e-4); loss -min(ratio A, clip(ratio) A).

    The ratio is of the policy to the sampler, token by token.

    Attributes:
        scale: divide by the standard deviation (n - 1) of the `group`, of the whole `batch`, or by nothing.
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high (DAPO sets it higher than clip_low).
        aggregation: how token losses are averaged; as published `sequence`, here `token` as in TRL and verl today.
    """

    scale: Literal["group", "batch", "none"] = "group"
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Literal["token", "sequence", "constant"] = "token"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> Needs:
        """The aggregation, and nothing else."""
        return Needs(self.aggregation)

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum in every group; lengths do not matter.

        >>> GRPO(scale="none").advantages([[1, 0, 0, 1]], [[5, 3, 4, 4]])
        [[0.5, -0.5, -0.5, 0.5]]
        """
        if self.scale == "group":
            return group_scaled(rewards)
        rows = [centred(group) for group in rewards]
        if self.scale == "none":
            return rows
        spread = stdev([r for group in rewards for r in group])
        return [[a / (spread + EPSILON) for a in row] for row in rows]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)

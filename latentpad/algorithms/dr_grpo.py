"""Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): GRPO without its two biases, of difficulty and of length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import centred, check_clip, clipped_surrogate, token_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class DrGRPO:
    """Advantage r - mean of the group; loss -min(ratio A, clip(ratio) A), divided by a constant length.

    GRPO divides by the standard deviation of the group, which favours questions that are nearly always or nearly never
    solved, and by the length of the response, which makes long wrong answers cheap. Here neither is divided by.

    Attributes:
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> Needs:
        """Token losses divided by the length limit (section 3.2 of the paper)."""
        return Needs("constant")

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum in every group; lengths do not matter.

        >>> DrGRPO().advantages([[1, 0, 0, 0]], [[5, 3, 4, 4]])
        [[0.75, -0.25, -0.25, -0.25]]
        """
        return [centred(group) for group in rewards]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)

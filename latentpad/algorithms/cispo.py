"""CISPO (MiniMax-M1 2025, arXiv 2506.13585): the weight of a token's gradient is clipped, never the gradient itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import check_clip, group_scaled, token_ratio
from latentpad.types import TokenLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class CISPO:
    """Advantage (r - mean of the group) / (std + 1e-4); loss -constant(clip(ratio)) A logprob (eq. 4 and 5).

    The ratio is of the policy to the sampler, token by token. The clipped surrogate drops the gradient of a token that
    has moved too far; here every token keeps its own, with a bounded weight.

    Attributes:
        clip_low: the weight is at least 1 - clip_low; 1 sets no bound, as published.
        clip_high: the weight is at most 1 + clip_high. The paper does not print its value; the default, a weight of 5,
            is the one of ScaleRL (arXiv 2510.13786) and TRL.
    """

    clip_low: float = 1.0
    clip_high: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> Needs:
        """A mean over tokens."""
        return Needs("token")

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum in every group; lengths do not matter.

        >>> [[round(a, 3) for a in row] for row in CISPO().advantages([[1, 0, 0, 1]], [[5, 3, 4, 4]])]
        [[0.866, -0.866, -0.866, 0.866]]
        """
        return group_scaled(rewards)

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses, whose values mean little and whose gradients do; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask).detach()
        weight = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss = -weight * advantages * logprobs.masked_fill(~mask, 0.0)
        return TokenLoss(loss, {"clip_fraction": (weight != ratio).to(ratio.dtype)})

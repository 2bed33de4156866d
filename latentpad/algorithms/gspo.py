"""GSPO (Zheng et al. 2025, arXiv 2507.18071): one ratio a response, the geometric mean of its tokens' ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import check_clip, clipped_surrogate, group_scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class GSPO:
    """Advantage (r - mean of the group) / (std + 1e-4); loss -min(s A, clip(s) A) at every token of a response.

    s = exp(mean over the response's tokens of policy - sampler logprob) (eq. 5 to 7). A response is clipped as a whole
    or not at all; where policy and sampler agree this is the plain policy gradient. The range is narrow because a mean
    over many tokens moves little: for short responses it must be wider.

    Attributes:
        clip_low: s is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> Needs:
        """Every rollout counts the same."""
        return Needs("sequence")

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum in every group; lengths do not matter.

        >>> [[round(a, 3) for a in row] for row in GSPO().advantages([[1, 0, 0, 1]], [[5, 3, 4, 4]])]
        [[0.866, -0.866, -0.866, 0.866]]
        """
        return group_scaled(rewards)

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        difference = (logprobs - rollout_logprobs).masked_fill(~mask, 0.0).sum(-1, keepdim=True)
        ratio = (difference / mask.sum(-1, keepdim=True).clamp(min=1)).exp().expand_as(logprobs)
        return clipped_surrogate(ratio, advantages.masked_fill(~mask, 0.0), self.clip_low, self.clip_high)

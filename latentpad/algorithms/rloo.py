"""RLOO (Ahmadian et al. 2024, arXiv 2402.14740): REINFORCE of whole responses, with the others as the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import centred, check_clip, clipped_surrogate
from latentpad.types import TokenLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# In nats. A ratio of e^20 is far beyond any clipping range; one of e^89 is infinite, and its gradient not a number.
LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True)
class RLOO:
    """Advantage r - mean of the other G - 1 rewards = G / (G - 1) (r - mean); loss -min(s A, clip(s) A) a response.

    As published, the whole response is one action and its update is A grad log pi(response), on policy. So the ratio s
    is that of the response, exp(sum over its tokens of policy - sampler logprob), as in TRL's `RLOOTrainer`: where
    policy and sampler agree s is 1, nothing is clipped, and the gradient is the published one; where they do not it is
    that estimator with importance sampling. The sum of many small differences is not small: with a sampler that lags
    behind, long responses are clipped as a whole. GSPO clips the mean, DrGRPO token by token.

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
        """A sum over the response's tokens, then a mean over rollouts; all divided by the constant length limit."""
        return Needs("constant")

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum in every group; lengths do not matter.

        >>> RLOO().advantages([[1, 0, 0]], [[5, 3, 4]])
        [[1.0, -0.5, -0.5]]
        """
        return [[a * len(group) / (len(group) - 1) for a in centred(group)] for group in rewards]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses, each token with an equal share of its response's; all tensors [B, T], logprobs in nats."""
        log_ratio = (logprobs - rollout_logprobs).masked_fill(~mask, 0.0).sum(-1, keepdim=True)
        ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp().expand_as(logprobs)
        whole = clipped_surrogate(ratio, advantages.masked_fill(~mask, 0.0), self.clip_low, self.clip_high)
        return TokenLoss(whole.loss / mask.sum(-1, keepdim=True).clamp(min=1), whole.metrics)

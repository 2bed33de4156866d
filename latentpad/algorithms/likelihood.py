"""Plain likelihood: the loss of fine-tuning on responses that were chosen before. No recipe names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.types import TokenLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """Loss -logprob, token by token: of the scratchpad and of the answer alike, and of nothing that was not chosen.

    Who sampled the responses, and what they earned, is not looked at.
    """

    @property
    def needs(self) -> Needs:
        """Every token of a step counts alike."""
        return Needs("token")

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced [B, T]."""
        del rollout_logprobs, advantages, mask
        return TokenLoss(-logprobs, {})

"""TRICE (Phan et al. 2023, arXiv 2312.02179): a right response to each problem is remembered and learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import likelihood_loss, others_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class TRICE:
    """Maximises the mean over problems of log p, p the policy's chance of a right answer to the problem.

    grad log p = E[grad log pi(response)] over responses given that they are right. A chain of such responses is kept
    for each problem: of the G that are sampled in a step, each in turn takes the place of the chain's state if it is
    right (independence Metropolis-Hastings), and the mean of grad log pi over the G states is the estimate. Less noise,
    same mean: from each sampled response's own gradient the share of right ones among the problem's others is taken
    off (its control variate; the expected gradient of a sampled response is 0, and that share does not depend on it).

    A problem that was never solved has no state until the first right response, and none is made up for it: that first
    one is distributed as the right ones are, so that t responses in there is a state with chance 1 - (1 - p)^t and it
    is a fair one. Its expected step is so the gradient of log p times the mean of these chances, in no other direction.

    The remembered response was right for an older policy and is not drawn again: exact where the chain has had time to
    follow the policy.
    """

    @property
    def needs(self) -> Needs:
        """A sum over the response's tokens, then a mean over rollouts; all divided by the constant length limit."""
        return Needs("constant")

    def chain(self, right: Sequence[bool], *, remembers: bool) -> tuple[list[float], float]:
        """The number of the chain's states that each rollout was, less the share of the others that are right.

        Over G rollouts and a remembered response these numbers sum to the number of states less that of right rollouts.

        Args:
            right: whether each of the problem's rollouts is, in order.
            remembers: whether the chain has a state from before.

        >>> TRICE().chain([False, True, False], remembers=True)
        ([-0.5, 2.0, -0.5], 1.0)
        """
        states, before, state = [0.0] * len(right), 0.0, -1
        for place, accepted in enumerate(right):
            state = place if accepted else state
            if state >= 0:
                states[state] += 1
            elif remembers:
                before += 1
        return [n - share for n, share in zip(states, others_mean(right), strict=True)], before

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses -coefficient * logprob; all tensors [B, T], logprobs in nats."""
        return likelihood_loss(logprobs, advantages, mask)

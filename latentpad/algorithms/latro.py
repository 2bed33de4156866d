"""LaTRO (Chen et al. 2024, arXiv 2411.04282, eq. 4): the gold answer's log-likelihood is the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Needs, Target
from latentpad.algorithms.parts import likelihood_loss, others_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import Coefficients
    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class LaTRO:
    """Maximises E_z[log pi(a*|x, z)] - beta KL(pi(z|x) || pi_0(z|x)), a lower bound of log E_z[pi(a*|x, z)].

    r_k = log pi(a*|x, z_k) - beta log(pi / pi_0)(z_k). A scratchpad's tokens count r_k less the mean of the group's
    other r, the gold answer's count 1. beta and pi_0 are those of `rl.kl` with `place: reward` and `reference: base`;
    without it beta is 0. Every rollout teaches, however unlikely the answer is.

    Attributes:
        aggregation: how token losses are averaged; only `constant` keeps the gradient that of the formula.
    """

    aggregation: Literal["token", "sequence", "constant"] = "constant"

    @property
    def needs(self) -> Needs:
        """The aggregation, and nothing else."""
        return Needs(self.aggregation)

    @property
    def target(self) -> Target:
        """Rows end in the gold answer."""
        return "reference"

    @property
    def pays_kl(self) -> bool:
        """As published."""
        return True

    def coefficients(
        self,
        rewards: Sequence[Sequence[float]],
        answer_logprobs: Sequence[Sequence[float]] | None,
        paid: Sequence[Sequence[float]] | None,
    ) -> list[list[Coefficients]]:
        """(r - mean of the others, 1); what the sampled answer earned does not matter.

        >>> LaTRO().coefficients([[0, 0, 1]], [[-1.0, -2.0, -6.0]], None)
        [[(3.0, 1.0), (1.5, 1.0), (-4.5, 1.0)]]
        """
        assert answer_logprobs is not None
        if paid is not None:
            pairs = zip(answer_logprobs, paid, strict=True)
            answer_logprobs = [[value - cost for value, cost in zip(g, p, strict=True)] for g, p in pairs]
        return [[(r - mean, 1.0) for r, mean in zip(g, others_mean(g), strict=True)] for g in answer_logprobs]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses -coefficient * logprob; all tensors [B, T], logprobs in nats."""
        return likelihood_loss(logprobs, advantages, mask)

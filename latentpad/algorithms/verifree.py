"""VeriFree (Zhou et al. 2025, arXiv 2505.21493): the gold answer's probability is the reward. No grader is asked."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Needs, Target
from latentpad.algorithms.parts import likelihood_loss, others_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import Coefficients
    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class VeriFree:
    """Maximises J = E_z[pi(a*|x, z)] for the gold answer a* after scratchpads z that the policy samples.

    grad J = E_z[r (grad log pi(z|x) + grad log pi(a*|x, z))] with r = pi(a*|x, z), a product over the answer's tokens.
    A scratchpad's tokens count r_k less the mean of the group's other r, the gold answer's count r_k. Where the answer
    can be spelt in one way only, J is the pass rate, and its gradient has less noise than that of sampled verdicts. At
    a start from which long answers have next to no probability there is next to nothing to climb.

    Attributes:
        aggregation: how token losses are averaged; only `constant` keeps the gradient that of J.
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
        """Its reward is the probability and nothing else."""
        return False

    def coefficients(
        self,
        rewards: Sequence[Sequence[float]],
        answer_logprobs: Sequence[Sequence[float]] | None,
        paid: Sequence[Sequence[float]] | None,
    ) -> list[list[Coefficients]]:
        """(r - mean of the others, r); what the sampled answer earned does not matter.

        >>> from math import log
        >>> [pairs] = VeriFree().coefficients([[0, 0]], [[log(0.5), log(0.2)]], None)
        >>> [(round(scratchpad, 3), round(answer, 3)) for scratchpad, answer in pairs]
        [(0.3, 0.5), (-0.3, 0.2)]
        """
        assert answer_logprobs is not None
        chances = [[exp(logprob) for logprob in group] for group in answer_logprobs]
        return [[(r - mean, r) for r, mean in zip(g, others_mean(g), strict=True)] for g in chances]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses -coefficient * logprob; all tensors [B, T], logprobs in nats."""
        return likelihood_loss(logprobs, advantages, mask)

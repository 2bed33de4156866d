"""JEPO (Tang et al. 2025, arXiv 2503.19618): the tighter of two lower bounds of the gold answer's log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, fsum, log
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Needs, Target
from latentpad.algorithms.parts import likelihood_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import Coefficients
    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class JEPO:
    """Maximises E[L], L = log of the mean over the group's G scratchpads of pi(a*|x, z_k), below log E_z[pi(a*|x, z)].

    The bound is that of importance-weighted autoencoders: the larger the group, the tighter; a group of one would be
    LaTRO. grad E[L] = E[sum over k of (L - L_k) grad log pi(z_k|x) + s_k grad log pi(a*|x, z_k)], L_k over the others
    alone and s the softmax of the group's log-likelihoods. Token losses are averaged over rollouts, of which the sum
    has G: a scratchpad's tokens count G (L - L_k), the gold answer's G s_k.

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
        """Its bound is of the likelihood and nothing else."""
        return False

    def coefficients(
        self,
        rewards: Sequence[Sequence[float]],
        answer_logprobs: Sequence[Sequence[float]] | None,
        paid: Sequence[Sequence[float]] | None,
    ) -> list[list[Coefficients]]:
        """(G (L - L over the others), G softmax); what the sampled answer earned does not matter.

        >>> [pairs] = JEPO().coefficients([[0, 0]], [[log(0.6), log(0.2)]], None)
        >>> [(round(scratchpad, 3), round(answer, 3)) for scratchpad, answer in pairs]
        [(1.386, 1.5), (-0.811, 0.5)]
        """
        assert answer_logprobs is not None
        return [_of_group(group) for group in answer_logprobs]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses -coefficient * logprob; all tensors [B, T], logprobs in nats."""
        return likelihood_loss(logprobs, advantages, mask)


def _of_group(group: Sequence[float]) -> list[Coefficients]:
    bound, size = _log_mean_exp(group), len(group)
    return [(size * (bound - _log_mean_exp([*group[:k], *group[k + 1 :]])), exp(group[k] - bound)) for k in range(size)]


def _log_mean_exp(values: Sequence[float]) -> float:
    """Of one value or more, without overflow."""
    largest = max(values)
    return largest + log(fsum(exp(value - largest) for value in values) / len(values))

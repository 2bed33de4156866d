"""The loss on answers alone: the scratchpad is sampled, read, and never itself rewarded or penalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Needs, Target
from latentpad.algorithms.parts import likelihood_loss
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import Coefficients
    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class AnswerTokens:
    """No coefficient on any scratchpad token; z is the sampled scratchpad, a the sampled answer, a* the gold one.

    | target | only | loss of a rollout | what it is |
    |---|---|---|---|
    | reference | wrong | -log pi(a*|x, z) where a is wrong | supervision on the answers that were wrong |
    | sampled | wrong | log pi(a|x, z) where a is wrong | wrong answers made less likely, and nothing else said |
    | reference | all | -log pi(a*|x, z) | LaTRO (arXiv 2411.04282, eq. 4) without the term of the scratchpad |

    They are readings of "only wrong answers are penalised, the scratchpad is ignored": what a policy learns in this way
    it learns by reading scratchpads; which ones it writes, and whether it opens one, changes through shared weights
    alone. Where a is right or wrong with no grade between, the first climbs the sum over z of pi(z) (1 - pi(a*|z))
    log pi(a*|z), weights held still, and the second has the expected gradient of rewarding right answers on their
    answer tokens (arXiv 2506.01347).

    Attributes:
        target: whether the gold answer is made likelier, or the sampled one less likely.
        only: the rollouts that count: those with a `wrong` answer (by 1 - reward), or `all`.
        aggregation: how token losses are averaged; only `constant` keeps the gradient that of the formula.
    """

    target: Target = "reference"
    only: Literal["wrong", "all"] = "wrong"
    aggregation: Literal["token", "sequence", "constant"] = "constant"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if (self.target, self.only) == ("sampled", "all"):
            raise RecipeError(
                "only: 'all' would make right answers less likely too; with target 'sampled' expected 'wrong'"
            )

    @property
    def needs(self) -> Needs:
        """The aggregation, and nothing else."""
        return Needs(self.aggregation)

    @property
    def pays_kl(self) -> bool:
        """A scratchpad earns nothing, so nothing can be taken off."""
        return False

    def coefficients(
        self,
        rewards: Sequence[Sequence[float]],
        answer_logprobs: Sequence[Sequence[float]] | None,
        paid: Sequence[Sequence[float]] | None,
    ) -> list[list[Coefficients]]:
        """(0, 1 - r), (0, r - 1) or (0, 1) for a reward r; how likely the gold answer is does not matter.

        >>> AnswerTokens().coefficients([[0, 1]], None, None)
        [[(0.0, 1.0), (0.0, 0.0)]]
        """
        sign = 1.0 if self.target == "reference" else -1.0
        return [[(0.0, 1.0 if self.only == "all" else sign * (1.0 - r)) for r in group] for group in rewards]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses -coefficient * logprob; all tensors [B, T], logprobs in nats."""
        return likelihood_loss(logprobs, advantages, mask)

"""The sign family (Zhu et al. 2025, arXiv 2506.01347): right answers rewarded, wrong ones penalised, no baseline."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import check_clip, clipped_surrogate, token_ratio
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class Signed:
    """Advantage right r - wrong (1 - r) for a reward r from 0 to 1; loss -min(ratio A, clip(ratio) A) token by token.

    | right | wrong | the paper's name |
    |---|---|---|
    | 1 | 1 | REINFORCE with rewards of 1 and -1 |
    | 1 | 0 | PSR, right answers rewarded only |
    | 0 | 1 | NSR, wrong answers penalised only |
    | 0.1 | 1 | W-REINFORCE |

    With sums over responses (`constant`) and on policy all four have the same expected gradient but for the factor
    right + wrong, for the gradient of a response's logprob has mean 0; they differ in their variance. A mean over each
    response (`sequence`) or over the step's tokens (`token`) breaks that.

    Attributes:
        right: what a right answer earns.
        wrong: what a wrong answer costs.
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
        aggregation: how token losses are averaged.
    """

    right: float = 1.0
    wrong: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Literal["token", "sequence", "constant"] = "constant"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)
        if not (min(self.right, self.wrong) >= 0 and 0 < self.right + self.wrong < inf):
            raise RecipeError(f"right {self.right}, wrong {self.wrong}: expected neither below 0 and not both 0")

    @property
    def needs(self) -> Needs:
        """The aggregation, and nothing else."""
        return Needs(self.aggregation)

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Each rollout for itself: neither its group nor its length matters.

        >>> Signed(right=0.1).advantages([[1, 0], [0, 0]], [[5, 3], [4, 4]])
        [[0.1, -1.0], [-1.0, -1.0]]
        """
        return [[self.right * r - self.wrong * (1 - r) for r in group] for group in rewards]

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)

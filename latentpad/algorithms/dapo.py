"""DAPO (Yu et al. 2025, arXiv 2503.14476): GRPO with a higher upper clip, a mean over tokens, and no dead groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.algorithms import Needs
from latentpad.algorithms.parts import check_clip, clipped_surrogate, group_scaled, token_ratio
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.types import TokenLoss


@dataclass(frozen=True)
class DAPO:
    """Advantage (r - mean of the group) / (std + 1e-4); loss -min(ratio A, clip(ratio) A) (eq. 8 to 12).

    The ratio is clipped later above than below, so that unlikely tokens can become likely; every token of the step
    counts the same; groups of equal rewards are replaced by newly sampled ones.

    Attributes:
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
        sampling_rounds: how often a step may sample, the first time included, to replace groups without a signal.
        overlong_buffer: the last so many tokens before the length limit cost up to 1 of reward; 0 costs nothing. The
            paper takes a fifth of the limit.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    sampling_rounds: int = 3
    overlong_buffer: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)
        if self.sampling_rounds < 1:
            raise RecipeError(f"sampling_rounds {self.sampling_rounds}: expected 1 or more; 1 never samples anew")
        if self.overlong_buffer < 0:
            raise RecipeError(f"overlong_buffer {self.overlong_buffer}: expected 0 or more tokens")

    @property
    def needs(self) -> Needs:
        """A mean over tokens, new groups for dead ones, and the price of length."""
        return Needs("token", self.sampling_rounds, self.overlong_buffer)

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Zero-sum in every group; lengths do not matter.

        >>> [[round(a, 3) for a in row] for row in DAPO().advantages([[1, 0, 0, 1]], [[5, 3, 4, 4]])]
        [[0.866, -0.866, -0.866, 0.866]]
        """
        return group_scaled(rewards)

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """What is added to the reward of a response of so many tokens (DAPO, eq. 13), between 0 and -1.

    0 up to limit - buffer, from there on linear to -1 at the limit, and -1 beyond. A buffer of 0 costs nothing up to
    the limit.

    >>> [overlong_penalty(length, limit=100, buffer=20) for length in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    over = length - (limit - buffer)
    if over <= 0:
        return 0.0
    return -1.0 if over >= buffer else -over / buffer

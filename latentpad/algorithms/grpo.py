"""GRPO (Shao et al. 2024, arXiv 2402.03300): advantages relative to the group, clipped ratios, KL in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from latentpad.recipe.errors import RecipeError
from latentpad.types import TokenLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

EPSILON = 1e-4


@dataclass(frozen=True)
class GRPO:
    """Advantage (r - mean of the group) / (std + 1e-4); loss -min(ratio A, clip(ratio) A) + kl_coef KL.

    The ratio is of the policy to the sampler, token by token. KL to the reference is the k3 estimate
    exp(d) - d - 1 with d = reference - policy logprob (Schulman 2020), in the loss and nowhere else.

    Attributes:
        scale: divide by the standard deviation (n - 1) of the `group`, of the whole `batch`, or by nothing (Dr. GRPO).
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high (DAPO sets it higher than clip_low).
        kl_coef: weight of the KL term.
        kl_reference: the frozen policy that KL is measured to; `base` is the policy before the first step.
        aggregation: how token losses are averaged.
    """

    scale: Literal["group", "batch", "none"] = "group"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    kl_reference: Literal["base"] = "base"
    aggregation: Literal["token", "sequence", "constant"] = "token"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 < self.clip_low <= 1 or self.clip_high <= 0:
            raise RecipeError(
                f"clip_low {self.clip_low}, clip_high {self.clip_high}: expected 0 < clip_low <= 1, 0 < clip_high"
            )
        if self.kl_coef < 0:
            raise RecipeError(f"kl_coef: got {self.kl_coef}; expected 0 or more")

    def advantages(self, rewards: Sequence[Sequence[float]]) -> list[list[float]]:
        """Zero-sum in every group.

        >>> GRPO(scale="none").advantages([[1, 0, 0, 1]])
        [[0.5, -0.5, -0.5, 0.5]]
        """
        centred = [[r - fmean(group) for r in group] for group in rewards]
        if self.scale == "none":
            return centred
        if self.scale == "batch":
            spread = stdev([r for group in rewards for r in group])
            return [[a / (spread + EPSILON) for a in group] for group in centred]
        return [[a / (stdev(group) + EPSILON) for a in row] for row, group in zip(centred, rewards, strict=True)]

    def token_loss(
        self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, reference_logprobs: Tensor | None
    ) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = (logprobs - rollout_logprobs).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss = -(ratio * advantages).minimum(clipped * advantages)
        metrics = {
            "ratio": ratio.detach(),
            "clip_fraction": (ratio * advantages > clipped * advantages).detach().to(ratio.dtype),
        }
        if self.kl_coef:
            assert reference_logprobs is not None
            difference = reference_logprobs - logprobs
            kl = difference.exp() - difference - 1
            loss = loss + self.kl_coef * kl
            metrics["kl"] = kl.detach()
        return TokenLoss(loss, metrics)

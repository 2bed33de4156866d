"""Importance correction of rollouts that were sampled by an older policy, or by an engine that computes differently.

Decoupled PPO (Hilton et al. 2022, arXiv 2110.00641; for language models AReaL, Fu et al. 2025, arXiv 2505.24298): the
algorithm's ratio is to the policy before this step, the proximal one, which clipping keeps it close to. What lies
between that and the sampler is made up for by a constant weight of each token's loss, w = proximal / sampler.

Token weights correct the choice of each token given what stands before it. What stands before it was still written by
the sampler, and so was what follows and earns the reward: responses of one token alone are corrected in full. The
product of all weights of a response would be unbiased, at a variance that grows exponentially with its length.

Of GSPO, whose one ratio stands at every token of a response, token weights have the effect of their mean over the
response: a masked token makes the response count less, and is itself still trained by the others' losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import torch

from latentpad.recipe.errors import RecipeError
from latentpad.training.reduce import ratio_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.training.collate import Rows

Mode = Literal["truncated", "masked"]


@dataclass(frozen=True, slots=True)
class Correction:
    """How the weights of tokens are bounded; see `importance_weights`.

    Attributes:
        mode: `truncated` or `masked`.
        cap: the bound, 1 or more; infinity bounds nothing.

    Raises:
        RecipeError: a cap below 1.
    """

    mode: Mode
    cap: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 1 <= self.cap <= inf:  # nan is refused too
            raise RecipeError(f"importance cap: got {self.cap}; expected 1 or more")

    def weights(self, proximal: Tensor, sampler: Tensor) -> Tensor:
        """[T] `importance_weights` so bounded."""
        return importance_weights(proximal, sampler, mode=self.mode, cap=self.cap)


def importance_weights(proximal: Tensor, sampler: Tensor, *, mode: Mode, cap: float) -> Tensor:
    """Weights w = exp(proximal - sampler logprob) of tokens, bounded; [T] float64 without a gradient.

    - `truncated`: min(w, cap). Truncated importance sampling (Ionides 2008), as Yao et al. 2025 ("Your efficient RL
      framework secretly brings you off-policy RL training") use it between trainer and engine. Biased towards less.
    - `masked`: w, and 0 outside [1 / cap, cap]. IcePop (Ling Team 2025, Ring-1T, arXiv 2510.18855, sec. 2.3.2), whose
      two bounds are free: here one is the inverse of the other.

    A weight that is not a number stays so in either mode: a broken policy is not to be masked out of sight.

    Args:
        proximal: [T] logprobs in nats of the policy before this step.
        sampler: [T] logprobs in nats that the tokens were sampled with.
        mode: how weights are bounded.
        cap: the bound, 1 or more.

    >>> logs = torch.tensor([0.25, 1.0, 4.0]).double().log()
    >>> importance_weights(logs, torch.zeros(3), mode="truncated", cap=2.0).tolist()
    [0.25, 1.0, 2.0]
    >>> importance_weights(logs, torch.zeros(3), mode="masked", cap=2.0).tolist()
    [0.0, 1.0, 0.0]
    """
    weights = (proximal.detach().double() - sampler.detach().double()).exp()
    if mode == "truncated":
        return weights.clamp(max=cap)
    return weights.masked_fill(_outside(weights, mode, cap), 0.0)


def _outside(weights: Tensor, mode: Mode, cap: float) -> Tensor:
    """[T] bool: which of the unbounded weights are truncated or masked."""
    return weights > cap if mode == "truncated" else (weights < 1 / cap) | (weights > cap)


def staleness_metrics(rows: Rows, correction: Correction) -> dict[str, float]:
    """How far the sampler was from the policy before this step, and what correcting for it did; {} without rows.

    Args:
        rows: all that is learned from in a step, made with this correction.
        correction: it.

    Returns:
        Over all N response tokens, w being the weights before they are bounded: `mismatch_kl`, KL(sampler || proximal)
        in nats a token, the mean of w - 1 - log w (k3); `importance_effective_samples`, (sum w)^2 / (N sum w^2), the
        share of N; `corrected_tokens`, the share whose weight was truncated or masked. When masking, also
        `trained_response_tokens`, the mean length of all responses, beside it `masked_response_tokens`, that of those
        with a masked token, absent without one; and `masked[CELL]`, the share of masked tokens among those of a cell.
    """
    if rows.proximal_logprobs is None or not rows.rollouts:
        return {}
    pairs = zip(rows.proximal_logprobs, rows.rollouts, strict=True)
    logs = [new.double() - torch.tensor(rollout.logprobs, dtype=torch.float64) for new, rollout in pairs]
    corrected = [_outside(row.exp(), correction.mode, correction.cap) for row in logs]
    ratios = ratio_metrics(torch.cat(logs))
    found = {
        "mismatch_kl": ratios["sampler_kl"],
        "importance_effective_samples": ratios["effective_samples"],
        "corrected_tokens": float(torch.cat(corrected).double().mean()),
    }
    return found if correction.mode == "truncated" else found | _masked(rows, corrected)


def _masked(rows: Rows, masked: list[Tensor]) -> dict[str, float]:
    """What was dropped beside what was trained, from [T_b] bool each."""
    found = {"trained_response_tokens": fmean(len(row) for row in masked)}
    if touched := [len(row) for row in masked if bool(row.any())]:
        found["masked_response_tokens"] = fmean(touched)
    cells: dict[str, list[Tensor]] = {}
    for rollout, row in zip(rows.rollouts, masked, strict=True):
        cells.setdefault(rollout.prompt.problem.cell, []).append(row)
    return found | {f"masked[{cell}]": float(torch.cat(cells[cell]).double().mean()) for cell in sorted(cells)}

"""From token values to numbers: the one reduction of a loss that there is, and what is told of ratios."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.types import Batch


def weighted_sum(loss: Tensor, batch: Batch) -> Tensor:
    """The reduction: `(loss * weights).sum()` over response tokens.

    The weights belong to the whole step, so the gradient does not depend on how it was cut into micro-batches.
    """
    # `where`, not only a zero weight: 0 * inf at padding would be nan.
    return (torch.where(batch.response_mask, loss, 0.0) * batch.weights).sum()


def inside(batch: Batch) -> Batch:
    """The batch with 0 in place of every number beyond a response: a nan there would reach the gradient as 0 * nan."""
    mask = batch.response_mask
    reached = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)  # the states before each token and after the last
    masks = {"rollout_logprobs": mask, "advantages": mask, "weights": mask, "reference_logprobs": mask, "returns": mask}
    columns = {name: (getattr(batch, name), m) for name, m in (masks | {"values": reached}).items()}
    return replace(
        batch, **{n: torch.where(m, column, 0.0) for n, (column, m) in columns.items() if column is not None}
    )


def ratio_metrics(log_ratios: Tensor) -> dict[str, float]:
    """Of the policy to the sampler, over all response tokens, before any clipping.

    With an importance correction the policy before this step takes the sampler's place (`Batch.rollout_logprobs`).

    Args:
        log_ratios: [N] learner's minus sampler's logprobs.

    Returns:
        mean, 1% and 99% quantiles; effective sample size as a share of N; KL(sampler || policy) in nats a token (k3).
    """
    logs = log_ratios.double()
    ratios = logs.exp()
    ordered = ratios.sort().values
    return {
        "ratio": float(ratios.mean()),
        "ratio_low": float(ordered[int(0.01 * (len(ordered) - 1))]),
        "ratio_high": float(ordered[-1 - int(0.01 * (len(ordered) - 1))]),
        "effective_samples": float(ratios.sum() ** 2 / (len(ratios) * ratios.square().sum())),
        "sampler_kl": float((ratios - 1 - logs).mean()),
    }

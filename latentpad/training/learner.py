"""The learner: one optimizer step from micro-batches. The only place where a loss is reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from latentpad.models.policy import Reference
from latentpad.training.forward import response_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import Algorithm
    from latentpad.models.policy import Policy
    from latentpad.training.optimizer import Optimizer
    from latentpad.types import Batch


@dataclass
class Learner:
    """Accumulates gradients of `(loss * weights).sum()`, then steps.

    The weights belong to the whole step, so the gradient does not depend on how it was cut into micro-batches.
    """

    policy: Policy
    algorithm: Algorithm
    optimizer: Optimizer
    temperature: float
    forbidden_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Take the reference while the policy is still what training starts from."""
        self._reference = Reference.of(self.policy) if self.algorithm.kl_coef else None

    def accumulate(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Add the gradients of these batches; returns the loss, and the mean of each metric over response tokens."""
        sums: dict[str, float] = {}
        tokens, loss_sum = 0, 0.0
        self.policy.model.train()
        for batch in (b.to(self.policy.device) for b in batches):
            logprobs = self._logprobs(self.policy.model, batch)
            result = self.algorithm.token_loss(
                logprobs=logprobs,
                rollout_logprobs=batch.rollout_logprobs.to(logprobs.dtype),
                advantages=batch.advantages,
                reference_logprobs=self._reference_logprobs(batch),
            )
            mask = batch.response_mask
            # `where`, not only a zero weight: 0 * inf at padding would be nan.
            loss = (torch.where(mask, result.loss, 0.0) * batch.weights).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
            tokens += int(mask.sum())
            for name, values in result.metrics.items():
                sums[name] = sums.get(name, 0.0) + float(values[mask].sum())
        return {"loss": loss_sum} | {name: total / max(1, tokens) for name, total in sums.items()}

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, float]:
        """One optimizer step, number `step` counted from 0; with no batch, none is taken."""
        if not batches:
            return {"loss": 0.0, "grad_norm": 0.0, "learning_rate": self.optimizer.learning_rate(step)}
        metrics = self.accumulate(batches)
        norm, rate = self.optimizer.step(step)
        return metrics | {"grad_norm": norm, "learning_rate": rate}

    def _logprobs(self, model: object, batch: Batch) -> Tensor:
        return response_logprobs(model, batch, temperature=self.temperature, forbidden_ids=self.forbidden_ids)

    def _reference_logprobs(self, batch: Batch) -> Tensor | None:
        if self._reference is None:
            return None
        with torch.no_grad(), self._reference.model() as model:
            return self._logprobs(model, batch)

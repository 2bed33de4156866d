"""The learner: one optimizer step of the policy from micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from latentpad.algorithms.parts import kl_estimate
from latentpad.training.forward import forward
from latentpad.training.processes.world import ALONE
from latentpad.training.reduce import inside, ratio_metrics, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import TokenObjective
    from latentpad.models.policy import Policy
    from latentpad.training.critic import CriticLearner
    from latentpad.training.forward import Forward
    from latentpad.training.optimizer import Optimizer
    from latentpad.training.processes.world import World
    from latentpad.types import Batch


@dataclass
class Learner:
    """Accumulates gradients of `(loss * weights).sum()`, then steps.

    Attributes:
        policy: what is trained.
        algorithm: the policy's loss.
        optimizer: of the policy's weights.
        temperature: that responses were sampled at.
        forbidden_ids: tokens that could not be sampled.
        kl_estimator: of the KL term in the loss; its weight is given step by step.
        entropy_coef: weight of the entropy bonus.
        critic: a value head on the policy's trunk, trained in the same pass.
        world: the processes among which a step's micro-batches are dealt out.
    """

    policy: Policy
    algorithm: TokenObjective
    optimizer: Optimizer
    temperature: float
    forbidden_ids: tuple[int, ...] = ()
    kl_estimator: Literal["k2", "k3"] = "k3"
    entropy_coef: float = 0.0
    critic: CriticLearner | None = None
    world: World = ALONE

    def accumulate(self, batches: Sequence[Batch], kl_coef: float = 0.0) -> dict[str, float]:
        """Add the gradients of this process's batches; the loss, and the mean of each metric over response tokens.

        What is returned is of the batches of all processes.
        """
        sums: dict[str, float] = {}
        tokens, loss_sum = 0, 0.0
        log_ratios: list[Tensor] = []
        self.optimizer.model.train()
        for batch in (inside(b.to(self.policy.device)) for b in batches):
            out = self.forward(batch, self.optimizer.model)
            loss, metrics = self._loss(out, batch, kl_coef)
            self.optimizer.backward(loss)
            mask = batch.response_mask
            loss_sum += float(loss.detach())
            tokens += int(mask.sum())
            for name, values in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(values[mask].sum())
            log_ratios.append((out.logprobs.detach() - batch.rollout_logprobs)[mask].cpu())
        parts = self.world.gather((loss_sum, tokens, sums, torch.cat(log_ratios)))
        count = max(1, sum(part[1] for part in parts))
        means = {name: sum(part[2][name] for part in parts) / count for name in sums}
        return {"loss": sum(part[0] for part in parts)} | means | ratio_metrics(torch.cat([part[3] for part in parts]))

    def step(self, batches: Sequence[Batch], step: int, kl_coef: float = 0.0) -> dict[str, float]:
        """One optimizer step in training step number `step` (from 0); with no batch, none is taken."""
        if not batches:
            return {"loss": 0.0, "grad_norm": 0.0, "learning_rate": self.optimizer.learning_rate(step)}
        self._zero_grad()
        metrics = self.accumulate(batches, kl_coef)
        if self.critic is None:
            metrics["grad_norm"], rate = self.optimizer.step(step)
            return metrics | {"learning_rate": rate}
        # Both gradients are found finite before either weight is changed.
        metrics["grad_norm"] = self.optimizer.clip(step)
        metrics["critic_grad_norm"] = self.critic.clip(step)
        self.critic.apply(step)
        return metrics | {"learning_rate": self.optimizer.apply(step)}

    def _zero_grad(self) -> None:
        """A step that diverged may have left gradients."""
        self.optimizer.discard()
        if self.critic is not None:
            self.critic.discard()

    def forward(self, batch: Batch, model: Any = None) -> Forward:
        """The policy on a batch, as it was sampled; `model` in its place where a gradient is wanted."""
        with self.policy.arithmetic():
            return forward(
                self.policy.model if model is None else model,
                batch,
                temperature=self.temperature,
                forbidden_ids=self.forbidden_ids,
                entropy=self.entropy_coef > 0,
                hidden=self.critic is not None,
            )

    def _loss(self, out: Forward, batch: Batch, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of a batch, and metrics [B, T]."""
        objective = self.algorithm.token_loss(
            logprobs=out.logprobs,
            rollout_logprobs=batch.rollout_logprobs.to(out.logprobs.dtype),
            advantages=batch.advantages,
            mask=batch.response_mask,
        )
        loss, metrics = objective.loss, dict(objective.metrics)
        if batch.reference_logprobs is not None:
            reference = batch.reference_logprobs.to(out.logprobs.dtype)
            metrics["kl"] = kl_estimate(out.logprobs, reference, "k3").detach()
            if kl_coef:
                loss = loss + kl_coef * kl_estimate(out.logprobs, reference, self.kl_estimator)
        if out.entropy is not None:
            metrics["policy_entropy"] = out.entropy.detach()
            loss = loss - self.entropy_coef * out.entropy
        if self.critic is None or out.hidden is None:
            return weighted_sum(loss, batch), metrics
        value = self.critic.token_loss(self.critic.shared(out.hidden), batch)
        metrics |= {"value_loss": value.loss.detach(), **value.metrics}
        return weighted_sum(loss, batch) + weighted_sum(value.loss, batch), metrics

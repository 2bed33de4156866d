"""The critic's side of learning: values before a step, and their own optimizer steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latentpad.models.critic import critic_trunk, value_head
from latentpad.recipe.schema import LoraSection
from latentpad.training.forward import response_hidden
from latentpad.training.optimizer import clipped_norm, learning_rate_scale
from latentpad.training.reduce import inside, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import CriticAlgorithm
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import TrainingSection
    from latentpad.types import Batch, TokenLoss


class CriticLearner:
    """A value head with what it stands on, and the optimizer of both.

    Of a `head` on the policy's trunk the optimizer moves the head alone; the trunk is moved by the policy's, in the
    policy's own pass, as far as `loss_coef` lets it.
    """

    def __init__(self, policy: Policy, algorithm: CriticAlgorithm, training: TrainingSection, *, seed: int) -> None:
        """Made before the policy's first step; a separate model starts as a copy of the policy."""
        self._policy, self._algorithm, self._training = policy, algorithm, training
        settings = algorithm.critic
        self.head = value_head(policy)
        self.trunk: Any = None
        if settings.kind == "model":
            rank = settings.lora_rank
            lora = LoraSection(rank=rank, alpha=2.0 * rank) if rank else None
            self.trunk = critic_trunk(policy, lora=lora, seed=seed)
        self._optimizer = torch.optim.AdamW(self.trainable().values(), lr=settings.learning_rate, weight_decay=0.0)
        self.step_scale = 1.0

    @property
    def minibatches(self) -> int:
        """Optimizer steps on each step's rollouts."""
        return self._algorithm.critic.minibatches

    @property
    def separate(self) -> bool:
        """Whether it is a model of its own."""
        return self.trunk is not None

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """What its optimizer moves, by name."""
        named = {f"head.{name}": p for name, p in self.head.named_parameters()}
        if self.trunk is not None:
            named |= {f"trunk.{name}": p for name, p in self.trunk.named_parameters() if p.requires_grad}
        return named

    @torch.no_grad()
    def estimate(self, batch: Batch) -> Tensor:
        """Values [B, T + 1]: column t is that of the state before token t, column `length` that after the last one."""
        values: Tensor = self.head(self._hidden(batch))
        return values

    def token_loss(self, hidden: Tensor, batch: Batch) -> TokenLoss:
        """Unreduced losses [B, T] of the values before each token."""
        assert batch.values is not None
        assert batch.returns is not None
        values: Tensor = self.head(hidden)[:, :-1]
        old, returns = batch.values[:, :-1].to(values.dtype), batch.returns.to(values.dtype)
        return self._algorithm.value_loss(values=values, old_values=old, returns=returns)

    def shared(self, hidden: Tensor) -> Tensor:
        """The same hidden states, of whose gradient only `loss_coef` reaches the trunk."""
        fixed = hidden.detach()
        coef = self._algorithm.critic.loss_coef
        return fixed + coef * (hidden - fixed) if coef else fixed

    def accumulate(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Add the gradients of these batches (of the head alone where the trunk is the policy's); returns the loss."""
        total = 0.0
        for batch in (inside(b.to(self._policy.device)) for b in batches):
            loss = weighted_sum(self.token_loss(self._hidden(batch), batch).loss, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return {"value_loss": total}

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, float]:
        """One step of its own optimizer, in training step number `step` (from 0)."""
        metrics = self.accumulate(batches) | {"critic_grad_norm": self.clip(step)}
        self.apply(step)
        return metrics

    def clip(self, step: int) -> float:
        """Clip the gradients; returns their norm before. Raises `Diverged`."""
        return clipped_norm(list(self.trainable().values()), self._training.max_grad_norm, step)

    def apply(self, step: int) -> None:
        """Step by the gradients as they are, and clear them."""
        for group in self._optimizer.param_groups:
            group["lr"] = (
                self._algorithm.critic.learning_rate * self.step_scale * learning_rate_scale(self._training, step)
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        weights = {name: p.detach().cpu().clone() for name, p in self.trainable().items()}
        return {"weights": weights, "optimizer": self._optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        with torch.no_grad():
            for name, parameter in self.trainable().items():
                parameter.copy_(state["weights"][name])
                parameter.grad = None
        self._optimizer.load_state_dict(state["optimizer"])

    def _hidden(self, batch: Batch) -> Tensor:
        if self.trunk is not None:
            return response_hidden(self.trunk, batch)
        with torch.no_grad():
            return response_hidden(self._policy.model, batch)

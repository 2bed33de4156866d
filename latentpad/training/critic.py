"""The critic's side of learning: values before a step, and their own optimizer steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latentpad.models.critic import critic_trunk, value_head
from latentpad.recipe.schema import LoraSection
from latentpad.training.forward import response_hidden
from latentpad.training.optimizer import learning_rate_scale
from latentpad.training.optimizers import make_optimizer
from latentpad.training.processes.replicated import Replicated
from latentpad.training.processes.strategy import SINGLE
from latentpad.training.reduce import inside, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from latentpad.algorithms import CriticAlgorithm
    from latentpad.models.critic import ValueHead
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import TrainingSection
    from latentpad.training.processes.strategy import Strategy
    from latentpad.types import Batch, TokenLoss


class Critic(torch.nn.Module):
    """A value head, with a trunk of its own unless it stands on the policy's."""

    def __init__(self, head: ValueHead, trunk: Any) -> None:
        super().__init__()
        self.head, self.trunk = head, trunk

    def forward(self, batch: Batch) -> Tensor:
        """Values [B, T + 1], by its own trunk."""
        values: Tensor = self.head(response_hidden(self.trunk, batch))
        return values


class CriticLearner:
    """A value head with what it stands on, and the optimizer of both.

    Of a `head` on the policy's trunk the optimizer moves the head alone; the trunk is moved by the policy's, in the
    policy's own pass, as far as `loss_coef` lets it.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: CriticAlgorithm,
        training: TrainingSection,
        *,
        seed: int,
        strategy: Strategy = SINGLE,
    ) -> None:
        """Made before the policy's first step; a separate model starts as a copy of the policy."""
        self._policy, self._algorithm, self._training = policy, algorithm, training
        self._world = strategy.world
        settings = algorithm.critic
        self.head = value_head(policy)
        self.trunk: Any = None
        if settings.kind == "model":
            rank = settings.lora_rank
            lora = LoraSection(rank=rank, alpha=2.0 * rank) if rank else None
            self.trunk = critic_trunk(policy, lora=lora, seed=seed)
        self._stepper = strategy.stepper(
            "critic",
            Critic(self.head, self.trunk),
            self._optimizers,
            max_grad_norm=training.max_grad_norm,
            keep_whole=False,
        )
        self.step_scale = 1.0

    def _optimizers(self, module: Any) -> list[tuple[torch.optim.Optimizer, float]]:
        rate = self._algorithm.critic.learning_rate
        weights = [p for p in module.parameters() if p.requires_grad]
        return [(make_optimizer(self._training.optimizer, weights, lr=rate, weight_decay=0.0), rate)]

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
        return self._values(batch)

    def token_loss(self, hidden: Tensor, batch: Batch) -> TokenLoss:
        """Unreduced losses [B, T] of the values before each token."""
        return self._loss_of(self.head(hidden), batch)

    def _loss_of(self, found: Tensor, batch: Batch) -> TokenLoss:
        assert batch.values is not None
        assert batch.returns is not None
        values = found[:, :-1]
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
            loss = weighted_sum(self._loss_of(self._values(batch), batch).loss, batch)
            self._stepper.backward(loss)
            total += float(loss.detach())
        return {"value_loss": sum(self._world.gather(total))}

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, float]:
        """One step of its own optimizer, in training step number `step` (from 0)."""
        return self.accumulate(batches) | {"critic_grad_norm": self._stepper.step(step, self._scale(step))}

    def clip(self, step: int) -> float:
        """Clip the head's gradients; returns their norm before. Raises `Diverged`. Where weights are whole."""
        assert isinstance(self._stepper, Replicated)
        return self._stepper.clip(step)

    def apply(self, step: int) -> None:
        """Step by the head's gradients as they are, and clear them. Where weights are whole."""
        assert isinstance(self._stepper, Replicated)
        self._stepper.apply(self._scale(step))

    def _scale(self, step: int) -> float:
        return self.step_scale * learning_rate_scale(self._training, step)

    @property
    def in_pieces(self) -> bool:
        """Whether its weights are cut up, so that every process has to take part in each of its forward passes."""
        return not isinstance(self._stepper, Replicated)

    def engage(self) -> list[str]:
        """Put the strategy into effect; says what is."""
        return self._stepper.engage()

    def discard(self) -> None:
        """Forget gradients that a step that diverged may have left."""
        self._stepper.discard()

    def state(self) -> dict[str, Any]:
        """For a checkpoint; where its weights are cut up, each process saves its own."""
        weights = {} if self.in_pieces else {name: p.detach().cpu().clone() for name, p in self.trainable().items()}
        return {"weights": weights, "optimizer": self._stepper.state()}

    def save(self, folder: Path) -> None:
        """What every process writes of its own into a checkpoint."""
        self._stepper.save(folder)

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        with torch.no_grad():
            for name, parameter in self.trainable().items() if state["weights"] else ():
                parameter.copy_(state["weights"][name])
                parameter.grad = None
        self._stepper.load(state["optimizer"])

    def restore(self, folder: Path) -> None:
        """What `save` wrote."""
        self._stepper.restore(folder)

    def _values(self, batch: Batch) -> Tensor:
        """[B, T + 1]; of the policy's trunk nothing is learned here."""
        with self._policy.arithmetic():
            if self.trunk is not None:
                values: Tensor = self._stepper.model(batch)
                return values
            with torch.no_grad():
                hidden = response_hidden(self._policy.model, batch)
        found: Tensor = self.head(hidden)
        return found

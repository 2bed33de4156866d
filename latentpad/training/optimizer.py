"""AdamW (or its 8-bit kin), with Muon for the matrices where a recipe asks; rates are a function of the step alone."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from latentpad.training.optimizers import make_optimizer
from latentpad.training.processes.replicated import Replicated
from latentpad.training.processes.strategy import SINGLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import TrainingSection
    from latentpad.training.processes.strategy import Strategy


def learning_rate_scale(training: TrainingSection, step: int, *, idle: int = 0) -> float:
    """The factor on the learning rates at a step (from 0): linear warm-up, then constant, linear or cosine to 0.

    The first `idle` steps, in which nothing is trained by these rates, are no part of it.
    """
    step, steps = max(0, step - idle), training.steps - idle
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    progress = (step - training.warmup_steps) / max(1, steps - training.warmup_steps)
    if training.schedule == "linear":
        return 1 - progress
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def policy_optimizers(model: Any, training: TrainingSection) -> list[tuple[torch.optim.Optimizer, float]]:
    """The recipe's optimizer for all trained weights of a language model, each with its learning rate.

    With `matrix_learning_rate`, Muon (Jordan 2024) has the matrices of the layers.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(p) for end in ends if end is not None for p in end.parameters()}
    muon = training.matrix_learning_rate is not None
    matrices = [p for p in parameters if muon and p.ndim == 2 and id(p) not in embeddings]
    taken = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in taken]
    rate, decay = training.learning_rate, training.weight_decay
    parts = [(make_optimizer(training.optimizer, rest, lr=rate, weight_decay=decay), rate)]
    if matrices:
        rate = training.matrix_learning_rate or 0.0
        parts.append((torch.optim.Muon(matrices, lr=rate, weight_decay=decay), rate))
    return parts


class Optimizer:
    """The policy's steps, on the recipe's schedule.

    Attributes:
        step_scale: a factor on all learning rates, lowered by a roll back.
    """

    def __init__(
        self,
        policy: Policy,
        training: TrainingSection,
        *,
        idle_steps: int = 0,
        strategy: Strategy = SINGLE,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        """Over the policy's trained weights; the first `idle_steps` are no part of the schedule.

        A `schedule` of the factor on the learning rates takes the place of the recipe's own.
        """
        self._training, self.step_scale = training, 1.0
        self._schedule = schedule or partial(learning_rate_scale, training, idle=idle_steps)
        self._stepper = strategy.stepper(
            "policy",
            policy.model,
            partial(policy_optimizers, training=training),
            max_grad_norm=training.max_grad_norm,
        )

    def _scale(self, step: int) -> float:
        return self.step_scale * self._schedule(step)

    @property
    def model(self) -> Any:
        """What forward passes with a gradient go through."""
        return self._stepper.model

    @property
    def replicated(self) -> Replicated:
        """Where weights are whole, what can clip and step apart."""
        assert isinstance(self._stepper, Replicated)
        return self._stepper

    def engage(self) -> list[str]:
        """Put the strategy into effect; says what is."""
        return self._stepper.engage()

    def learning_rate(self, step: int) -> float:
        """AdamW's learning rate at a step, counted from 0."""
        return self._training.learning_rate * self._scale(step)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of the step's loss."""
        self._stepper.backward(loss)

    def discard(self) -> None:
        """Forget gradients that a step that diverged may have left."""
        self._stepper.discard()

    def step(self, step: int) -> tuple[float, float]:
        """Clip the gradients, take step number `step` (from 0), clear them; returns gradient norm and learning rate.

        Raises:
            Diverged: the gradient is not finite; no weight was changed.
        """
        return self._stepper.step(step, self._scale(step)), self.learning_rate(step)

    def clip(self, step: int) -> float:
        """Clip the gradients; returns their norm before. Raises `Diverged`. Where weights are whole."""
        return self.replicated.clip(step)

    def apply(self, step: int) -> float:
        """Take a step by the gradients as they are, clear them; returns the learning rate. Where weights are whole."""
        self.replicated.apply(self._scale(step))
        return self.learning_rate(step)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self._stepper.state()

    def save(self, folder: Path) -> None:
        """What every process writes of its own into a checkpoint."""
        self._stepper.save(folder)

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._stepper.load(state)

    def restore(self, folder: Path) -> None:
        """What `save` wrote."""
        self._stepper.restore(folder)

"""AdamW, with Muon for the matrices where a recipe asks; learning rates are a function of the step alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from latentpad.recipe.errors import Diverged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import TrainingSection


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


def clipped_norm(parameters: list[torch.nn.Parameter], limit: float, step: int) -> float:
    """Clip the gradients to a norm of at most `limit`; returns the norm before.

    Raises:
        Diverged: it is not finite; the gradients are cleared, no weight was changed.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if not math.isfinite(norm):
        for parameter in parameters:
            parameter.grad = None
        raise Diverged(
            f"gradient norm is {norm} at step {step + 1}; no weight was changed by this step; a lower "
            "training.learning_rate or training.max_grad_norm may help"
        )
    return norm


class Optimizer:
    """AdamW for all trained weights; with `matrix_learning_rate`, Muon (Jordan 2024) for the matrices of the layers.

    Attributes:
        step_scale: a factor on all learning rates, lowered by a roll back.
    """

    def __init__(self, policy: Policy, training: TrainingSection, *, idle_steps: int = 0) -> None:
        """Over the policy's trained weights; the first `idle_steps` are no part of the schedule."""
        self._training, self._idle, self.step_scale = training, idle_steps, 1.0
        parameters = policy.trainable()
        self._parameters = list(parameters.values())
        ends = (policy.model.get_input_embeddings(), policy.model.get_output_embeddings())
        embeddings = {id(p) for end in ends if end is not None for p in end.parameters()}
        muon = training.matrix_learning_rate is not None
        matrices = [p for p in self._parameters if muon and p.ndim == 2 and id(p) not in embeddings]
        taken = {id(p) for p in matrices}
        rest = [p for p in self._parameters if id(p) not in taken]
        decay = training.weight_decay
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(rest, lr=training.learning_rate, weight_decay=decay), training.learning_rate)
        ]
        if matrices:
            rate = training.matrix_learning_rate or 0.0
            self._parts.append((torch.optim.Muon(matrices, lr=rate, weight_decay=decay), rate))

    def _scale(self, step: int) -> float:
        return self.step_scale * learning_rate_scale(self._training, step, idle=self._idle)

    def learning_rate(self, step: int) -> float:
        """AdamW's learning rate at a step, counted from 0."""
        return self._training.learning_rate * self._scale(step)

    def step(self, step: int) -> tuple[float, float]:
        """Clip the gradients, take step number `step` (from 0), clear them; returns gradient norm and learning rate.

        Raises:
            Diverged: the gradient is not finite; no weight was changed.
        """
        norm = self.clip(step)
        return norm, self.apply(step)

    def clip(self, step: int) -> float:
        """Clip the gradients; returns their norm before. Raises `Diverged`."""
        return clipped_norm(self._parameters, self._training.max_grad_norm, step)

    def apply(self, step: int) -> float:
        """Take a step by the gradients as they are, clear them; returns the learning rate."""
        for optimizer, rate in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * self._scale(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return self.learning_rate(step)

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer, _ in self._parts]

    def load(self, states: Iterable[dict[str, Any]]) -> None:
        """From a checkpoint."""
        for (optimizer, _), state in zip(self._parts, states, strict=True):
            optimizer.load_state_dict(state)

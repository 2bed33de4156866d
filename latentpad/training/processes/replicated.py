"""Every process holds everything: gradients are summed over all processes once a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from latentpad.recipe.errors import Diverged, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from latentpad.training.processes.world import World


def clipped_norm(parameters: list[torch.nn.Parameter], limit: float, step: int) -> float:
    """Clip the gradients to a norm of at most `limit`; returns the norm before.

    Raises:
        Diverged: it is not finite; the gradients are cleared, no weight was changed.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if not math.isfinite(norm):
        for parameter in parameters:
            parameter.grad = None
        raise diverged(norm, step)
    return norm


def diverged(norm: float, step: int) -> Diverged:
    """The line for a gradient that is not finite, at training step `step` (from 0)."""
    return Diverged(
        f"gradient norm is {norm} at step {step + 1}; no weight was changed by this step; a lower "
        "training.learning_rate or training.max_grad_norm may help"
    )


def other_shards(written: str | None, here: str | None) -> str:
    """The line for a checkpoint whose optimizer state is cut up otherwise than this launch would cut it."""
    return (
        f"the checkpoint was written under {written or 'no DeepSpeed'}, this is {here or 'without DeepSpeed'}, and "
        "optimizer state stays with its cut: go on with the same launch, or start another run from it with model.path"
    )


class Replicated:
    """Steps by torch optimizers; the same on every process, for all see the same sum of gradients.

    One exchange a step after all its micro-batches: that is what `DistributedDataParallel` comes to under `no_sync`,
    without asking that every process has as many of them.
    """

    def __init__(
        self,
        module: Any,
        optimizers: Sequence[tuple[torch.optim.Optimizer, float]],
        *,
        max_grad_norm: float,
        world: World,
    ) -> None:
        """`optimizers` of the module's trained weights, each with its learning rate."""
        self._module, self._optimizers, self._limit, self._world = module, list(optimizers), max_grad_norm, world
        self._parameters = [p for p in module.parameters() if p.requires_grad]

    @property
    def model(self) -> Any:
        """The module itself."""
        return self._module

    def engage(self) -> list[str]:
        """Nothing is to be done."""
        return ["weights, gradients and optimizer state whole on every process"] if self._world.size > 1 else []

    def backward(self, loss: Tensor) -> None:
        """Add this process's gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, step: int, scale: float) -> float:
        """Clip, step, clear; returns the norm before. Raises `Diverged`; then no weight was changed."""
        norm = self.clip(step)
        self.apply(scale)
        return norm

    def clip(self, step: int) -> float:
        """Sum the gradients over all processes and clip them; returns their norm before. Raises `Diverged`."""
        self._world.sum_gradients(self._parameters)
        return clipped_norm(self._parameters, self._limit, step)

    def apply(self, scale: float) -> None:
        """Step by the gradients as they are, with learning rates times `scale`, and clear them."""
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def discard(self) -> None:
        """Clear all gradients."""
        self._module.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The optimizers' states; the same on every process, so any number of them can go on from it."""
        return {"strategy": None, "optimizers": [optimizer.state_dict() for optimizer, _ in self._optimizers]}

    def save(self, folder: Path) -> None:
        """Rank 0 writes it all."""

    def restore(self, folder: Path) -> None:
        """There is nothing more."""

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        if state["strategy"] is not None:
            raise RecipeError(other_shards(state["strategy"], None))
        for (optimizer, _), part in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)

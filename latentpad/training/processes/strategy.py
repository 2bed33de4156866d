"""How a step is shared out among the processes of a run: weights replicated, or sharded by DeepSpeed ZeRO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from latentpad.training.processes.replicated import Replicated
from latentpad.training.processes.world import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import Tensor

    from latentpad.launch import Launch
    from latentpad.recipe.schema import Recipe
    from latentpad.training.processes.world import World


class Stepper(Protocol):
    """What turns gradients into a step of one module's trained weights, over all processes.

    Attributes:
        model: what forward passes with a gradient go through.
    """

    @property
    def model(self) -> Any:
        """The module itself, or what DeepSpeed made of it."""
        ...

    def engage(self) -> list[str]:
        """Put into effect what was asked for, once proofs and resume are done; says what is in effect."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this process's part of the step's loss; the step's is the sum over all processes."""
        ...

    def step(self, step: int, scale: float) -> float:
        """Clip, step with learning rates times `scale`, clear; returns the gradient norm before. Raises `Diverged`."""
        ...

    def discard(self) -> None:
        """Forget gradients that a step that diverged may have left."""
        ...

    def state(self) -> dict[str, Any]:
        """What rank 0 keeps of the optimizers in a checkpoint."""
        ...

    def save(self, folder: Path) -> None:
        """What every process writes of its own into a checkpoint."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """From what `state` gave. Raises `RecipeError` where that was under another strategy."""
        ...

    def restore(self, folder: Path) -> None:
        """What every process wrote by `save`."""
        ...


@dataclass(frozen=True)
class Strategy:
    """The processes of a run, and what each holds.

    Attributes:
        world: the processes.
        deepspeed: configuration of DeepSpeed; None where every process holds everything.
        precision: of forward passes.
    """

    world: World = ALONE
    deepspeed: dict[str, Any] | None = None
    precision: Literal["fp32", "bf16"] | None = None

    @classmethod
    def of(cls, launch: Launch, recipe: Recipe, world: World) -> Strategy:
        """What the launch and the recipe ask for."""
        return cls(world, launch.deepspeed, recipe.training.precision)

    @property
    def name(self) -> str:
        """`zero-1` to `zero-3`, `replicated`, or `single`; a checkpoint names the one that wrote it."""
        if self.deepspeed is not None:
            return f"zero-{self.zero_stage}"
        return "replicated" if self.world.size > 1 else "single"

    @property
    def shards(self) -> str | None:
        """How DeepSpeed cuts optimizer state up, such as `zero-2 on 4 processes`; None where it is whole."""
        return None if self.deepspeed is None else f"{self.name} on {self.world.size} processes"

    @property
    def zero_stage(self) -> int:
        """0 without DeepSpeed."""
        return 0 if self.deepspeed is None else int(self.deepspeed["zero_optimization"]["stage"])

    def stepper(
        self,
        name: str,
        module: Any,
        optimizers: Callable[[Any], list[tuple[torch.optim.Optimizer, float]]],
        *,
        max_grad_norm: float,
        keep_whole: bool = True,
    ) -> Stepper:
        """For a module.

        Args:
            name: of the module, for its part of a checkpoint.
            module: whole, on this process's device.
            optimizers: makes those of a module's trained weights, each with its learning rate.
            max_grad_norm: gradients are clipped to it.
            keep_whole: whether `module` stays a whole copy, to sample from, where ZeRO-3 cuts the trained one up.
        """
        if self.deepspeed is None:
            return Replicated(module, optimizers(module), max_grad_norm=max_grad_norm, world=self.world)
        from latentpad.training.processes.zero import Zero

        return Zero(name, module, optimizers, max_grad_norm=max_grad_norm, strategy=self, keep_whole=keep_whole)


SINGLE = Strategy()

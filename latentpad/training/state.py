"""One training state for the loops that we own: save it, restore it, to the bit."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from latentpad.recipe.errors import RecipeError, Stopped
from latentpad.training.checkpoint import STATE, write_checkpoint
from latentpad.training.run_folder import Counters

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import TrainingSection
    from latentpad.training.interrupt import Stop
    from latentpad.training.optimizer import Optimizer
    from latentpad.training.run_folder import RunFolder


class TrainingState:
    """Policy, optimizer and counters of a run, and when they are written."""

    def __init__(self, run: RunFolder, policy: Policy, optimizer: Optimizer, training: TrainingSection) -> None:
        """Take up the run's newest checkpoint, if it has one."""
        self._run, self._policy, self._optimizer, self._training = run, policy, optimizer, training
        self.counters = Counters()
        self.step = 0
        if run.resume is not None:
            self._load(run.resume[1])
        self._clock = time.monotonic()

    def _load(self, folder: Path) -> None:
        state = torch.load(folder / STATE, weights_only=True)
        parameters = self._policy.trainable()
        if set(parameters) != set(state["weights"]):
            raise RecipeError(
                f"{folder}: its trained weights are not those of this recipe: delete the run to start anew"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["weights"][name])
        if self._policy.trainable_hash() != state["hash"]:
            raise RecipeError(
                f"{folder}: the restored weights do not have the hash that was saved: delete this checkpoint"
            )
        self._optimizer.load(state["optimizer"])
        self.counters = Counters(**state["counters"])
        self.step = state["step"]

    def _fill(self, folder: Path) -> None:
        self._policy.save(folder)
        weights = {name: p.detach().cpu().clone() for name, p in self._policy.trainable().items()}
        state = {
            "step": self.step,
            "weights": weights,
            "hash": self._policy.trainable_hash(),
            "optimizer": self._optimizer.state(),
            "counters": asdict(self.counters),
        }
        torch.save(state, folder / STATE)

    def advance(self, values: dict[str, float], timing: dict[str, float], stop: Stop) -> None:
        """A step is done: log it, and write a checkpoint where one is due, at the end, or where a stop was asked for.

        Raises:
            Stopped: a stop was asked for, and the checkpoint is written.
        """
        self.step += 1
        now = time.monotonic()
        self.counters.seconds += now - self._clock
        self._clock = now
        self._run.log(self.step, values, self.counters, timing)
        last = self.step >= self._training.steps
        if last or stop.requested or self.step % self._training.checkpoint_every == 0:
            write_checkpoint(self._run.checkpoints, self.step, self._fill, key=self._run.key)
        if stop.requested and not last:
            raise Stopped(
                f"stopped at step {self.step} of {self._training.steps}; checkpoint in {self._run.checkpoints}"
            )

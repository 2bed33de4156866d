"""One training state for the loops that we own: save it, restore it, to the bit."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from latentpad.recipe.errors import Diverged, MachineError, RecipeError, Stopped
from latentpad.training.checkpoint import STATE, discard, is_good, steps_in, verify, write_checkpoint
from latentpad.training.processes.world import ALONE
from latentpad.training.run_folder import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import TrainingSection
    from latentpad.training.interrupt import Stop
    from latentpad.training.optimizer import Optimizer
    from latentpad.training.processes.world import World
    from latentpad.training.run_folder import RunFolder


class Part(Protocol):
    """Something else that a run carries from step to step: a critic, a curriculum, a controller."""

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@runtime_checkable
class InPieces(Protocol):
    """A part of which every process has files of its own in a checkpoint."""

    def save(self, folder: Path) -> None:
        """Write them; every process does at once."""
        ...

    def restore(self, folder: Path) -> None:
        """Take them up again, after `load`."""
        ...


class TrainingState:
    """Policy, optimizer, counters and parts of a run, and when they are written.

    Attributes:
        step: training steps taken.
        counters: what the run has cost.
        roll_backs: how often it was rolled back.
    """

    def __init__(
        self,
        run: RunFolder,
        policy: Policy,
        optimizer: Optimizer,
        training: TrainingSection,
        parts: Mapping[str, Part] | None = None,
        *,
        keep: int = 1,
        world: World = ALONE,
    ) -> None:
        """Take up the run's newest checkpoint, if it has one; keep the newest `keep` good ones."""
        self._world = world
        self._run, self._policy, self._optimizer, self._training = run, policy, optimizer, training
        self._parts, self._keep = dict(parts or {}), keep
        self._base, self._start = policy.base_hash(), policy.trainable_hash()
        self.counters = Counters()
        self.step = self.roll_backs = 0
        self._rolled_back_to = -1
        if run.resume is not None:
            self._load(run.resume[1])
        self._clock = time.monotonic()

    def begin(self) -> None:
        """Before the first step of this start: there is always something to roll back to."""
        if self._run.resume is None and self._keep > 1:
            self._write(good=True)
        self._clock = time.monotonic()

    def _load(self, folder: Path) -> None:
        state = torch.load(folder / STATE, weights_only=True)
        parameters = self._policy.trainable()
        if set(parameters) != set(state["weights"]) or set(self._parts) != set(state["parts"]):
            raise RecipeError(
                f"{folder}: its trained weights are not those of this recipe: delete the run to start anew"
            )
        if (self._base, self._start) != (state["base"], state["start"]):
            raise RecipeError(
                f"{folder}: was trained on other base weights than model.path holds now: give those, or another --out"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["weights"][name])
                parameter.grad = None  # a step that diverged may have left one
        if self._policy.trainable_hash() != state["hash"]:
            raise RecipeError(
                f"{folder}: the restored weights do not have the hash that was saved: delete this checkpoint"
            )
        self._optimizer.load(state["optimizer"])
        self._optimizer.step_scale = state["step_scale"]
        for name, part in self._parts.items():
            part.load(state["parts"][name])
        for piece in self._pieces():
            piece.restore(folder)
        self.counters = Counters(**state["counters"])
        self.step, self.roll_backs = state["step"], state["roll_backs"]
        self._rolled_back_to = state["rolled_back_to"]

    def _fill(self, folder: Path) -> None:
        self._policy.save(folder)
        weights = {name: p.detach().cpu().clone() for name, p in self._policy.trainable().items()}
        state = {
            "step": self.step,
            "weights": weights,
            "hash": self._policy.trainable_hash(),
            "base": self._base,
            "start": self._start,
            "optimizer": self._optimizer.state(),
            "step_scale": self._optimizer.step_scale,
            "roll_backs": self.roll_backs,
            "rolled_back_to": self._rolled_back_to,
            "parts": {name: part.state() for name, part in self._parts.items()},
            "counters": asdict(self.counters),
        }
        torch.save(state, folder / STATE)

    def _pieces(self) -> list[InPieces]:
        return [self._optimizer, *(part for part in self._parts.values() if isinstance(part, InPieces))]

    def _pieces_into(self, folder: Path) -> None:
        for piece in self._pieces():
            piece.save(folder)

    def _write(self, *, good: bool) -> None:
        """By all processes; what only rank 0 writes must be the same on each."""
        if not self._world.same(self._policy.trainable_hash()):
            raise MachineError(
                f"step {self.step}: the processes do not hold the same weights any more: nothing is saved"
            )
        write_checkpoint(
            self._run.checkpoints,
            self.step,
            self._fill,
            key=self._run.key,
            good=good,
            keep=self._keep,
            world=self._world,
            pieces=self._pieces_into,
        )

    def advance(self, values: dict[str, float], timing: dict[str, float], stop: Stop, *, good: bool = True) -> None:
        """A step is done: log it, and write a checkpoint where one is due, at the end, or where a stop was asked for.

        Args:
            values: the step's metrics.
            timing: what may differ between equal runs.
            stop: whether the user asked to stop.
            good: whether the run is well, so that a checkpoint written now is one to roll back to.

        Raises:
            Stopped: a stop was asked for, and the checkpoint is written.
        """
        self.step += 1
        now = time.monotonic()
        self.counters.seconds += now - self._clock
        self._clock = now
        self._run.log(self.step, values, self.counters, timing)
        self._run.after_step(self.step)
        self._clock = time.monotonic()  # looking on is no part of what training takes
        last, stopped = self.step >= self._training.steps, self._world.any(stop.requested)
        if last or stopped or self.step % self._training.checkpoint_every == 0:
            self._write(good=good)
        if stopped and not last:
            raise Stopped(
                f"stopped at step {self.step} of {self._training.steps}; checkpoint in {self._run.checkpoints}"
            )

    def keep(self) -> str:
        """Write a checkpoint of the last step that was finished, out of turn; says in words how to go on."""
        if not (self._run.checkpoints / str(self.step)).is_dir():
            self._write(good=False)
        return f"the same command goes on from the checkpoint of step {self.step}"

    def roll_back(self, step_factor: float, why: str) -> None:
        """Take up the newest good checkpoint, forget what came after it, and go on with smaller steps.

        Where that is the one that the last roll back took up, it was not good after all: the one before it is taken.
        A run that is killed before its next checkpoint comes to the same trouble again, and rolls back again.

        Args:
            step_factor: on all learning rates.
            why: for the error where nothing can be taken up.

        Raises:
            Diverged: no checkpoint is good.
        """
        folder = self._run.checkpoints
        good = [step for step in steps_in(folder) if is_good(folder / str(step))]
        if not good:
            raise Diverged(f"{why}; no checkpoint is from before the trouble")
        if len(good) > 1 and max(good) == self._rolled_back_to:
            good.remove(max(good))
        target = max(good)
        verify(folder / str(target), key=self._run.key)
        self._world.barrier()  # all have chosen before anything goes
        later = [step for step in steps_in(folder) if step > target]
        for step in sorted(later, reverse=True) if self._world.leads else ():
            discard(folder, step)
        spent, scale, count = self.counters, self._optimizer.step_scale, self.roll_backs
        self._load(folder / str(target))
        self.counters = spent  # what was undone has been paid for
        self._optimizer.step_scale, self.roll_backs = scale * step_factor, count + 1
        self._rolled_back_to = target
        self._run.cut_metrics(self.step)

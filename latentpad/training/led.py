"""A pool of rollout workers that rank 0 alone owns: it asks, and every process is given what was sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latentpad.rollout import Request, Sampling
    from latentpad.rollout.pool import Pool, Underway
    from latentpad.rollout.weights import Weights
    from latentpad.training.processes.world import World
    from latentpad.types import Episode, Rollout


@dataclass(frozen=True)
class LedUnderway:
    """Rollouts that rank 0 has asked for; None on the others."""

    underway: Underway | None
    world: World

    def wait(self) -> list[Rollout]:
        """One for each request, in order, on every process; each raises what rank 0 does."""
        found: list[Rollout] | MachineError = []
        try:
            found = [] if self.underway is None else self.underway.wait()
        except MachineError as error:
            found = error
        found = self.world.from_leader(found)
        if isinstance(found, MachineError):
            raise found
        return found

    def late(self) -> list[Request]:
        """Requests that are not answered yet, told on rank 0."""
        return [] if self.underway is None else self.underway.late

    def timing(self) -> dict[str, float]:
        """What it took, told on rank 0."""
        return {} if self.underway is None else self.underway.timing()

    def drop(self) -> None:
        """They are not wanted any more."""
        if self.underway is not None:
            self.underway.drop()


class LedEngine:
    """A `RolloutEngine` on every process, over the pool of rank 0."""

    def __init__(
        self,
        pool: Pool | None,
        world: World,
        grade: Callable[[Sequence[Rollout]], list[Episode]] | None = None,
    ) -> None:
        """With the pool on rank 0, None elsewhere; `grade` where rewards are computed on the cluster too."""
        self.pool, self._world, self.grade = pool, world, grade
        self.lines: list[str] = []

    def sync(self, version: int, adapter_hash: str) -> None:
        """Sample from the weights as they are now."""
        if self.pool is not None:
            self.pool.sync(version, adapter_hash)

    def submit(self, requests: Sequence[Request], sampling: Sampling, weights: Weights | None = None) -> LedUnderway:
        """Begin to sample, from the weights of the last sync or from older ones; never waits."""
        underway = None if self.pool is None else self.pool.submit(requests, sampling, weights)
        return LedUnderway(underway, self._world)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_chunk: Callable[[int], None] | None = None
    ) -> list[Rollout]:
        """One rollout for each request, in order."""
        rollouts = self.submit(requests, sampling).wait()
        if on_chunk is not None:
            on_chunk(len(rollouts))
        return rollouts

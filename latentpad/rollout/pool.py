"""Rollouts by supervised workers: the engine that the trainer sees."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from latentpad.rollout.crew import Limits
from latentpad.rollout.local import as_rollouts
from latentpad.rollout.probe import Probe, probe_sequences
from latentpad.rollout.ray_crew import Job, RayCrew
from latentpad.rollout.supervisor import Supervisor
from latentpad.rollout.weights import SyncError, flatten, held
from latentpad.rollout.worker import RolloutWorker, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latentpad.launch.cluster import Cluster
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import Request, Sampling
    from latentpad.rollout.crew import Ticket
    from latentpad.rollout.weights import Weights
    from latentpad.rollout.worker import Reply
    from latentpad.types import Rollout


@dataclass(frozen=True)
class Underway:
    """Rollouts that were asked for, and are being sampled.

    Attributes:
        requests: what was asked.
        weights: what they are sampled from.
    """

    requests: Sequence[Request]
    weights: Weights
    _ticket: Ticket
    _chunk_size: int

    @property
    def late(self) -> list[Request]:
        """Requests that are not answered yet."""
        size, replies = self._chunk_size, self._ticket.replies
        chunks = (self.requests[i * size : (i + 1) * size] for i in range(self._ticket.size) if i not in replies)
        return [request for chunk in chunks for request in chunk]

    def wait(self) -> list[Rollout]:
        """One for each request, in order. Raises `PoolLost` or `SyncError`."""
        rollouts: list[Rollout] = []
        for number, reply in enumerate(self._ticket.wait()):
            chunk = self.requests[number * self._chunk_size : (number + 1) * self._chunk_size]
            rollouts += as_rollouts(chunk, reply.samples, reply.version, reply.hash)
        return rollouts

    def timing(self) -> dict[str, float]:
        """What it took, and what went wrong on the way."""
        replies = list(self._ticket.replies.values())
        loads = [reply.load_seconds for reply in replies if reply.scores is not None]
        return {
            "sample_seconds": sum(reply.sample_seconds for reply in replies),
            "load_seconds": fmean(loads) if loads else 0.0,
            "reissued_chunks": self._ticket.reissued,
            "doubled_chunks": self._ticket.doubled,
        }

    def drop(self) -> None:
        """They are not wanted any more."""
        self._ticket.end()


class Pool:
    """A `RolloutEngine` over workers on a Ray cluster.

    Chunks are cut by the recipe's size alone, and each is sampled in one batch, wherever: the number of workers, and
    which of them die, changes no number.
    """

    def __init__(
        self,
        policy: Policy,
        recipe: Recipe,
        cluster: Cluster,
        note: Callable[[dict[str, Any]], None] = lambda _: None,
        *,
        worker_class: type[RolloutWorker] = RolloutWorker,
    ) -> None:
        """Start the workers; `note` hears of those that are lost."""
        section = recipe.rollout.ray
        assert section is not None
        self._policy, self._chunk_size = policy, recipe.rollout.chunk_size
        self._crew = RayCrew(cluster, recipe, identity(policy), worker_class)
        limits = Limits(section.request_seconds, section.silence_seconds, section.start_seconds, section.restarts)
        self._supervisor = Supervisor(self._crew, section.workers, limits, note)
        self._kept = recipe.rollout.staleness + 2
        self._probe: Probe | None = None
        self._current: Weights | None = None
        self.largest_deviation = 0.0

    def sync(self, version: int, adapter_hash: str) -> None:
        """Sample from the policy's weights as they are now: a copy is made, and sent when it is first needed."""
        self._current = flatten(self._policy, version, adapter_hash)
        self._crew.keep(self._kept)

    @property
    def current(self) -> Weights:
        """The weights of the last sync."""
        assert self._current is not None, "sync first"
        return self._current

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_chunk: Callable[[int], None] | None = None
    ) -> list[Rollout]:
        """One rollout for each request, in order, from the weights of the last sync."""
        rollouts = self.submit(requests, sampling).wait()
        if on_chunk is not None:
            on_chunk(len(rollouts))
        return rollouts

    def submit(self, requests: Sequence[Request], sampling: Sampling, weights: Weights | None = None) -> Underway:
        """Begin to sample, from the weights of the last sync or from older ones; never waits."""
        weights = self.current if weights is None else weights
        probe = self._expect(requests, sampling, weights)
        size = self._chunk_size
        chunks = [requests[i : i + size] for i in range(0, len(requests), size)]
        jobs = [
            Job(weights, probe.sequences, [r.prompt.token_ids for r in chunk], [r.seed for r in chunk], sampling)
            for chunk in chunks
        ]

        def check(reply: Reply, worker: int) -> Reply:
            who = self._crew.name(worker)
            if (reply.version, reply.hash) != (weights.version, weights.hash):
                raise SyncError(
                    f"{who} sampled from version {reply.version} ({reply.hash[:12]}), asked was version "
                    f"{weights.version} ({weights.hash[:12]}); nothing was learned from it"
                )
            if reply.scores is not None:
                found = probe.check(weights.version, weights.hash, reply.scores, who)
                self.largest_deviation = max(self.largest_deviation, found)
            return reply

        return Underway(requests, weights, self._supervisor.submit(jobs, check), size)

    def close(self) -> None:
        """End all workers."""
        self._supervisor.close()

    def _expect(self, requests: Sequence[Request], sampling: Sampling, weights: Weights) -> Probe:
        """Note what the trainer makes of the probe with these weights."""
        if self._probe is None:
            prompts, tail = [r.prompt.token_ids for r in requests], min(16, sampling.max_new_tokens)
            sequences = probe_sequences(prompts, len(self._policy.tokenizer), tail=tail)
            self._probe = Probe(self._policy, sequences)
        if not self._probe.knows(weights.version, weights.hash):
            with held(weights, self._policy):
                self._probe.advance(weights.version, weights.hash)
        return self._probe

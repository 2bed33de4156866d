"""An engine in the trainer's process over a sampler with weights of its own: what is synced is sent, and probed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from latentpad.rollout.local import as_rollouts
from latentpad.rollout.weights import SyncError, flatten, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from latentpad.models.policy import Policy
    from latentpad.rollout import Request, Sampler, Sampling
    from latentpad.rollout.probe import Probe
    from latentpad.rollout.weights import Weights
    from latentpad.types import Rollout


class SyncedEngine:
    """Samples in chunks of `chunk_size` requests, in their order, from the weights of the last sync.

    Args:
        policy: the trainer's.
        sampler: it starts with the policy's weights.
        chunk_size: requests a batch.
        who: the sampler's name, for errors.
        probe: if given, it compares the logprobs of sampler and trainer after every sync.
    """

    def __init__(
        self, policy: Policy, sampler: Sampler, *, chunk_size: int, who: str = "vllm", probe: Probe | None = None
    ) -> None:
        self._policy, self._sampler = policy, sampler
        self._chunk_size, self._who, self._probe = chunk_size, who, probe
        self._version, self._adapter_hash = 0, ""

    def sync(self, version: int, adapter_hash: str) -> None:
        """Send the policy's trained weights as they are now, and sample from them from now on.

        Raises:
            SyncError: they did not arrive, or the sampler does not compute with them.
        """
        self._take(flatten(self._policy, version, adapter_hash))

    @contextmanager
    def holding(self, weights: Weights) -> Iterator[None]:
        """Within the block sample from these weights, which may be older than the learner's. Raises `SyncError`."""
        if (weights.version, weights.hash) != (self._version, self._adapter_hash):
            self._take(weights)
        yield

    def _take(self, weights: Weights) -> None:
        version, expected = weights.version, weights.hash
        found = self._sampler.load(weights)
        if found != expected:
            raise SyncError(f"{self._who}: holds {found[:12]} after the sync of version {version}: {expected[:12]}")
        if self._probe is not None:
            if not self._probe.knows(version, expected):
                with held(weights, self._policy):
                    self._probe.advance(version, expected)
            self._probe.check(version, expected, self._sampler.score(self._probe.sequences), self._who)
        self._version, self._adapter_hash = version, expected

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_chunk: Callable[[int], None] | None = None
    ) -> list[Rollout]:
        """One rollout for each request, in order; `on_chunk` hears how many more are done."""
        rollouts: list[Rollout] = []
        for start in range(0, len(requests), self._chunk_size):
            chunk = requests[start : start + self._chunk_size]
            samples = self._sampler.sample([r.prompt.token_ids for r in chunk], [r.seed for r in chunk], sampling)
            rollouts += as_rollouts(chunk, samples, self._version, self._adapter_hash)
            if on_chunk is not None:
                on_chunk(len(chunk))
        return rollouts

    def close(self) -> None:
        """Free what the sampler holds."""
        self._sampler.close()

"""Engines that sample responses, behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from latentpad.rollout.weights import Weights
    from latentpad.types import Prompt, Rollout


@dataclass(frozen=True, slots=True)
class Request:
    """One response wanted: idempotent by (prompt, seed)."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: divides the logits; 0 is greedy decoding (logprobs are then those at temperature 1).
        max_new_tokens: the length limit; a response that reaches it without a stop token is LENGTH.
        forbidden_ids: tokens whose probability is set to 0 before sampling. The learner does the same, so that the
            policy is one and the same on both sides.
    """

    temperature: float
    max_new_tokens: int
    forbidden_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Samples:
    """What was sampled for some prompts, an entry a prompt: bare numbers, which travel well.

    Attributes:
        token_ids: sampled tokens, the stop token included if there was one.
        logprobs: the sampler's own, in nats, at the temperature that it sampled with.
        stopped: whether it ended with a stop token.
    """

    token_ids: list[tuple[int, ...]]
    logprobs: list[tuple[float, ...]]
    stopped: list[bool]


class Sampler(Protocol):
    """What runs in a rollout worker: weights of its own, prompts in, tokens out. It knows no problem and no answer."""

    def load(self, weights: Weights) -> str:
        """Sample from these trained weights from now on; the base is never written. Returns the hash of what it holds.

        Raises:
            SyncError: they do not fit this model.
        """
        ...

    def sample(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], sampling: Sampling) -> Samples:
        """One response a prompt, all in one batch; the same prompts and seeds give the same."""
        ...

    def score(self, sequences: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Logprobs in nats of each sequence's tokens but its first, at temperature 1."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class RolloutEngine(Protocol):
    """What an engine promises: one rollout a request, in order, token ids in and out, the sampler's logprobs kept."""

    def sync(self, version: int, adapter_hash: str) -> None:
        """Sample from this version of the policy from now on."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        """One rollout for each request, in the order of the requests."""
        ...


@runtime_checkable
class HoldsWeights(Protocol):
    """An engine in this process that can sample from weights that are not the learner's newest."""

    def holding(self, weights: Weights) -> AbstractContextManager[None]:
        """Within the block, sample from these."""
        ...

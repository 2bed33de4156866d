"""Engines that sample responses, behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class RolloutEngine(Protocol):
    """What an engine promises: one rollout a request, in order, token ids in and out, the sampler's logprobs kept."""

    def sync(self, version: int, adapter_hash: str) -> None:
        """Sample from this version of the policy from now on."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        """One rollout for each request, in the order of the requests."""
        ...

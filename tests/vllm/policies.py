"""Policies that vLLM can run: its attention on a CPU has no heads below 32 features."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import torch

from latentpad.models.policy import Policy, load_policy
from latentpad.recipe.schema import ScratchSection
from latentpad.rollout.vllm import VLLMSampler
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.rollout import Samples, Sampling

SIZES = ScratchSection(hidden_size=64, layers=2, heads=2, intermediate_size=64, max_positions=320)
# Measured: 1e-6 at most, on these sizes.
CLOSE = 1e-4
MEMORY = 1 << 28


def full_policy(architecture: str = "llama", **sizes: object) -> Policy:
    """Every token of it is likely enough to be counted, and the stop token rare enough for long responses."""
    changed = SIZES.model_copy(update={"architecture": architecture, **sizes})
    return tiny.policy(2, sizes=changed, sharpness=3.0)


def lora_policy(folder: Path) -> Policy:
    """With an adapter that does something."""
    full_policy().save(folder)
    made = load_policy(folder, lora=tiny.LORA)
    move(made, seed=1)
    return made


@torch.no_grad()
def move(policy: Policy, *, seed: int, scale: float = 0.1) -> None:
    """As a training step would, only further."""
    generator = torch.Generator().manual_seed(seed)
    for weight in policy.trainable().values():
        weight.add_(torch.randn(weight.shape, generator=generator) * scale)


class StoppingAt:
    """The same engine, asked to stop where this policy does: a second engine would take half a minute to start."""

    def __init__(self, sampler: VLLMSampler, policy: Policy) -> None:
        self._sampler, self._stop_ids = sampler, policy.stop_ids
        self.load, self.score, self.close = sampler.load, sampler.score, sampler.close

    def sample(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], sampling: Sampling) -> Samples:
        before = self._sampler._policy
        self._sampler._policy = replace(before, stop_ids=self._stop_ids)
        try:
            return self._sampler.sample(prompts, seeds, sampling)
        finally:
            self._sampler._policy = before


def sequences(policy: Policy, length: int, count: int = 4) -> list[tuple[int, ...]]:
    """Random tokens, the same in every test: longer than 128 they fill a block of the prefix cache."""
    rng = Random(length)
    return [tuple(rng.randrange(len(policy.tokenizer)) for _ in range(length)) for _ in range(count)]


def furthest(a: list[list[float]], b: list[list[float]]) -> float:
    """The largest difference of a logprob."""
    assert [len(row) for row in a] == [len(row) for row in b]
    return max(abs(x - y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True))

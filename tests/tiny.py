"""The smallest policy, prompts, rollouts and recipes that the tests of the loop share."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from latentpad.formats import get_format
from latentpad.models.policy import Policy, load_policy, new_policy
from latentpad.recipe.schema import Component, LoraSection, Recipe, ScratchSection, TrainingSection
from latentpad.rollout import Request, Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.tasks import build_task
from latentpad.training.collate import Rows
from latentpad.training.episodes import make_prompt
from latentpad.training.optimizer import Optimizer
from latentpad.types import Batch, FinishReason, Problem, Prompt, Rollout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from latentpad.tasks import Task

SIZES = ScratchSection(hidden_size=16, layers=2, heads=2, intermediate_size=32, max_positions=128)
LORA = LoraSection(rank=2, alpha=4)
COMPACT = get_format("compact")


def task() -> Task:
    return build_task(Component(name="addition", digits=[1, 2]))


def policy(seed: int = 0, *, sizes: ScratchSection = SIZES, double: bool = False, sharpness: float = 8.0) -> Policy:
    """A random policy; its output head is scaled so that its distributions are not all but uniform."""
    made = new_policy(sizes, task().alphabet + COMPACT.alphabet, seed=seed)
    with torch.no_grad():
        made.model.get_output_embeddings().weight.mul_(sharpness)
    if double:
        made.model.double()
    return made


def lora_policy(folder: Path, seed: int = 0, *, touched: bool = False) -> Policy:
    """The policy saved and loaded with a new adapter; `touched` moves the adapter away from doing nothing."""
    policy(seed).save(folder)
    made = load_policy(folder, lora=LORA, seed=seed)
    if touched:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in made.trainable().values():
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return made


def prompt(made: Policy, question: str) -> Prompt:
    problem = Problem(question, "addition", "train", "digits=1", question, "0")
    return make_prompt(made, COMPACT, problem)


def requests(made: Policy, count: int, *, first_seed: int = 0) -> list[Request]:
    """Prompts of different lengths in turn, each request with a seed of its own."""
    questions = ["1+2", "12+34", "9+9", "123+4", "5+67", "1234+5678"]
    return [Request(prompt(made, questions[i % len(questions)]), first_seed + i) for i in range(count)]


def sampled(made: Policy, count: int, **sampling: Any) -> list[Rollout]:
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 8, **sampling}
    return LocalEngine(made, chunk_size=count).generate(requests(made, count), Sampling(**options))


def rollout(made: Policy, question: str, response: str, *, stop: bool = True, logprob: float = -2.0) -> Rollout:
    """A rollout written by hand."""
    ids = tuple(made.tokenizer.encode(response)) + ((made.stop_ids[0],) if stop else ())
    reason = FinishReason.STOP if stop else FinishReason.LENGTH
    return Rollout(prompt(made, question), ids, (logprob,) * len(ids), reason, 0, "", 0)


def off_policy(rollouts: Sequence[Rollout], *, spread: float, seed: int = 0) -> list[Rollout]:
    """The same rollouts as if another policy had sampled them: ratios spread far enough to be clipped."""
    rng = Random(seed)
    return [replace(r, logprobs=tuple(v + rng.uniform(-spread, spread) for v in r.logprobs)) for r in rollouts]


def collate(
    rollouts: Sequence[Rollout], advantages: Sequence[float | torch.Tensor], weights: Sequence[float], **columns: Any
) -> Batch:
    """One batch of all of them."""
    return Rows(rollouts, advantages, weights, **columns).collate()


def optimizer(made: Policy, **changes: Any) -> Optimizer:
    values: dict[str, Any] = {"steps": 10, "learning_rate": 0.01, "checkpoint_every": 5, "max_grad_norm": 1e9}
    return Optimizer(made, TrainingSection(**(values | changes)))


@contextmanager
def double() -> Iterator[None]:
    """New tensors of real numbers are float64 within the block, those of `collate` too."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def gradients(made: Policy) -> dict[str, torch.Tensor]:
    """The gradients by name; clears them."""
    found = {n: p.grad.clone() for n, p in made.trainable().items() if p.grad is not None}
    made.model.zero_grad(set_to_none=True)
    return found


def recipe(method: str = "rl", **changes: Any) -> Recipe:
    """A complete recipe; `changes` are top-level keys to add, or sections to update."""
    sections: dict[str, dict[str, Any]] = {
        "pretrain": {"pretrain": {"documents_per_step": 8, "scratchpad_share": 0.5}},
        "supervised": {"supervised": {"target": "scratchpad", "examples_per_step": 4}},
        "rl": {"rl": {"prompts_per_step": 4, "group_size": 4}, "algorithm": {"name": "grpo"}},
        "expert_iteration": {
            "expert_iteration": {"rounds": 2, "prompts_per_round": 8, "samples_per_prompt": 4, "rows_per_step": 4}
        },
    }
    data: dict[str, Any] = {
        "name": f"tiny-{method}",
        "method": method,
        "task": {"name": "addition", "digits": [1]},
        "format": "compact",
        "model": {"scratch": SIZES.model_dump()},
        "rollout": {"max_new_tokens": 32, "chunk_size": 16},
        "training": {"steps": 8, "learning_rate": 0.003, "micro_batch_tokens": 256, "checkpoint_every": 2},
        "evaluation": {"problems": 10, "max_new_tokens": 32},
        **sections[method],
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and key in data and key != "model" else value
    return Recipe.model_validate(data)

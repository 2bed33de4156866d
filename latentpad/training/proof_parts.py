"""What the start-up proofs try things with: rollouts as if some of them were right, gradients, weights that move."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Any

import torch

from latentpad.algorithms import AnswerAlgorithm, MemoryAlgorithm
from latentpad.models.reference import snapshot
from latentpad.recipe.errors import MachineError
from latentpad.training.answer_rows import make_answer_rows
from latentpad.training.collate import Rows
from latentpad.training.memory import Memory, make_memory_rows
from latentpad.training.processes.world import ALONE
from latentpad.training.rows import Observed, make_rows, observe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.training.answer_rows import Answers
    from latentpad.training.learner import Learner
    from latentpad.training.rl import RLTrainer
    from latentpad.types import Batch, Rollout


class ProofFailed(MachineError):  # noqa: N818 (says what happened)
    """A start-up proof failed: training would be wrong on this machine, with this model. One line. Exit code 3."""


def plain_batch(rollouts: Sequence[Rollout]) -> Batch:
    """All of them, each token with an advantage and a weight of 1."""
    return Rows(rollouts, [1.0] * len(rollouts), [1.0] * len(rollouts)).collate()


def rows_as_if(trainer: RLTrainer, rollouts: Sequence[Rollout]) -> Rows:
    """The algorithm's own rows, as if all were one group and the responses to every other prompt were right.

    Within a prompt responses may all be alike, and their gradients cancel. The critic's values are taken to be 0: what
    it has learned of the true rewards says nothing of these.
    """
    signal = [[float(right) for right in as_if_right(rollouts)]]
    budget, limit = trainer.recipe.training.micro_batch_tokens, trainer.recipe.rollout.max_new_tokens
    algorithm = trainer.algorithm
    if isinstance(algorithm, AnswerAlgorithm):
        answers = answers_as_if(trainer, algorithm, rollouts)
        return make_answer_rows(answers, signal, algorithm, max_new_tokens=limit, keep_all=True)
    if isinstance(algorithm, MemoryAlgorithm):
        options: dict[str, Any] = {"max_new_tokens": limit, "budget": budget, "keep_all": True}
        return make_memory_rows(rollouts, signal, algorithm, Memory(), alone(trainer), **options)[0]
    found = observe(rollouts, alone(trainer), reference=trainer.kl.reference, critic=None, budget=budget)
    if trainer.critic is not None:
        found = Observed(found.reference_logprobs, [torch.zeros(len(r.token_ids) + 1) for r in rollouts])
    return make_rows(rollouts, signal, algorithm, found, max_new_tokens=limit, keep_all=True)


def answers_as_if(trainer: RLTrainer, algorithm: AnswerAlgorithm, rollouts: Sequence[Rollout]) -> Answers:
    """What is learned from, as if gold answers were likely after the responses that are as if right, and only there."""
    found = trainer.reader(algorithm).read(rollouts, alone(trainer))
    if found.logprobs is None:
        return found
    return replace(found, logprobs=[log(0.9 if right else 0.1) for right in as_if_right(rollouts)])


def as_if_right(rollouts: Sequence[Rollout]) -> list[bool]:
    """The responses to every other prompt, or where there is one prompt every other response."""
    prompts = list(dict.fromkeys(rollout.prompt.problem.id for rollout in rollouts))
    if len(prompts) < 2:
        return [i % 2 == 0 for i in range(len(rollouts))]
    return [prompts.index(rollout.prompt.problem.id) % 2 == 0 for rollout in rollouts]


def alone(trainer: RLTrainer) -> Learner:
    """The learner of this process by itself: every process proves the same."""
    return replace(trainer.learner, world=ALONE)


def gradient_of(trainer: RLTrainer, learner: Learner, rows: Rows, budget: int, kl_coef: float) -> Tensor:
    """The policy's gradient as one vector, in float64; all gradients are cleared."""
    learner.accumulate(rows.batches(budget), kl_coef)
    parameters = trainer.policy.trainable().values()
    vector = torch.cat(
        [(p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten()).double().cpu() for p in parameters]
    )
    for parameter in [*parameters, *(trainer.critic.trainable().values() if trainer.critic is not None else ())]:
        parameter.grad = None
    return vector


@contextmanager
def moved_weights(policy: Policy, by: Tensor) -> Iterator[None]:
    """Within the block the trained weights are off by a vector; after it each is what it was, to the bit."""
    kept = snapshot(policy)
    parameters = policy.trainable()
    try:
        with torch.no_grad():
            parts = torch.split(by, [p.numel() for p in parameters.values()])
            for parameter, part in zip(parameters.values(), parts, strict=True):
                parameter.add_(part.view_as(parameter).to(parameter.device, parameter.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])

"""The start-up proof of the sign: what a small step down the loss does to what was rewarded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from latentpad.algorithms import AnswerAlgorithm
from latentpad.training.proof_parts import (
    ProofFailed,
    alone,
    answers_as_if,
    as_if_right,
    gradient_of,
    moved_weights,
    plain_batch,
    rows_as_if,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from latentpad.training.rl import RLTrainer
    from latentpad.types import Batch, Rollout

LEAST_ADVANTAGE = 0.01


def step_raises_right_answers(trainer: RLTrainer, rollouts: Sequence[Rollout]) -> str:
    """A small step down the loss makes what was rewarded likelier than what was not, tokens by their credit."""
    if isinstance(trainer.algorithm, AnswerAlgorithm):
        return _step_moves_answers(trainer, trainer.algorithm, rollouts)
    bare, rows = replace(alone(trainer), entropy_coef=0.0, critic=None), rows_as_if(trainer, rollouts)
    largest = max(float(torch.as_tensor(advantage).abs().max()) for advantage in rows.advantages)
    if not largest > LEAST_ADVANTAGE:
        raise ProofFailed(
            f"rewards of 1 and 0 give advantages of at most {largest:.1g}: next to nothing would be learned"
        )
    gradient = gradient_of(trainer, bare, rows, trainer.recipe.training.micro_batch_tokens, 0.0)
    if not float(gradient.norm()) > 0:
        raise ProofFailed("rewards that differ give a gradient of 0: nothing would be learned")
    batch = plain_batch(rollouts).to(trainer.policy.device)
    right = torch.tensor(as_if_right(rollouts), device=trainer.policy.device)

    # Where credit decays, the first tokens of a long response have next to none: normalised, less than none.
    left = (
        batch.response_mask.sum(1, keepdim=True)
        - 1
        - torch.arange(batch.response_mask.shape[1], device=batch.weights.device)
    )
    credit = trainer.algorithm.needs.credit_decay ** left.clamp(min=0).double()

    def lead() -> float:
        with torch.no_grad():
            sums = (trainer.learner.forward(batch).logprobs.double() * credit).sum(1)
        return float(sums[right].mean() - sums[~right].mean())

    change = _best_change(trainer, gradient, lead)
    if not change > 0:
        raise ProofFailed(f"a step makes what was rewarded less likely (by {-change:.2g} nats): a sign is wrong")
    return f"a small step makes rewarded responses likelier than the others, by {change:.2g} nats"


def _best_change(trainer: RLTrainer, gradient: Tensor, measure: Callable[[], float]) -> float:
    """What a small step down the gradient adds to a measure of the policy; more than 0 if any small step does."""
    before, change = measure(), 0.0
    # The first may overshoot; bfloat16 does not see the small ones.
    for size in (1e-2, 1e-3, 1e-4) if trainer.policy.precision != "bf16" else (1e-1, 1e-2, 1.0):
        with moved_weights(trainer.policy, -size * gradient / gradient.norm()):
            change = measure() - before
        if change > 0:
            break
    return change


def _step_moves_answers(trainer: RLTrainer, algorithm: AnswerAlgorithm, rollouts: Sequence[Rollout]) -> str:
    """What a small step does to answers and, by itself, to scratchpads, each weighed by the size of its coefficient.

    Gold answers become likelier, sampled answers that are as if wrong less likely; scratchpads after which the gold
    answer is as if likely become likelier than the others.
    """
    learner, budget = replace(alone(trainer), entropy_coef=0.0), trainer.recipe.training.micro_batch_tokens
    rows = rows_as_if(trainer, rollouts).take(range(len(rollouts)))  # not those of opening a scratchpad
    counts, said = answers_as_if(trainer, algorithm, rollouts).scratchpads, []
    answers = ("gold answers", "likelier", 1.0) if algorithm.target == "reference" else ("wrong ones", "rarer", -1.0)
    for name, how, sign in (answers, ("scratchpads before likely gold answers", "likelier", 0.0)):
        columns, wanted = [], []
        for row, n, right in zip(rows.advantages, counts, as_if_right(rollouts), strict=True):
            assert isinstance(row, torch.Tensor)
            of_part = (torch.arange(len(row)) < n) == (not sign)
            columns.append(row * of_part)
            wanted.append(columns[-1].abs() * (sign or (1.0 if right else -1.0)))
        if not any(bool(column.any()) for column in columns):
            continue
        gradient = gradient_of(trainer, learner, replace(rows, advantages=columns), budget, 0.0)
        batch = replace(rows, advantages=wanted).collate().to(trainer.policy.device)
        change = _best_change(trainer, gradient, partial(_weighed_logprobs, trainer, batch))
        if not change > 0:
            raise ProofFailed(
                f"a step does not make {name} {how} (but by {-change:.2g} nats the other): a sign is wrong"
            )
        said.append(f"{name} {how}, by {change:.2g} nats")
    return f"a small step makes {' and '.join(said)}" if said else "no response that was tried has an answer to learn"


@torch.no_grad()
def _weighed_logprobs(trainer: RLTrainer, batch: Batch) -> float:
    """The sum of a batch's logprobs, each times its advantage."""
    return float((trainer.learner.forward(batch).logprobs.double() * batch.advantages)[batch.response_mask].sum())

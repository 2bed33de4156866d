"""The memory of an algorithm that learns from remembered responses: of each problem the last right one (TRICE)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentpad.algorithms import token_weights
from latentpad.training.collate import Rows
from latentpad.training.rows import observe
from latentpad.types import FinishReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.algorithms import MemoryAlgorithm
    from latentpad.models.reference import Reference
    from latentpad.training.learner import Learner
    from latentpad.types import Rollout

# What a right answer earns; less is not right.
RIGHT = 1.0


class Memory:
    """A right response to each problem that was ever solved; a part of a run's state."""

    def __init__(self) -> None:
        """Nothing is remembered yet."""
        self._responses: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """The number of problems that were solved."""
        return len(self._responses)

    def vie(
        self, rollouts: Sequence[Rollout], rewards: Sequence[float], algorithm: MemoryAlgorithm
    ) -> tuple[list[float], list[tuple[Rollout, float]]]:
        """The coefficients of one problem's rollouts, and what was remembered of it with its own, if it has one.

        From now on the last right one of them is remembered. What comes back has no logprobs: they are to be put in.
        """
        problem = rollouts[0].prompt.problem.id
        right = [reward >= RIGHT for reward in rewards]
        kept = self._responses.get(problem)
        coefficients, before = algorithm.chain(right, remembers=kept is not None)
        for rollout, accepted in zip(rollouts, right, strict=True):
            if accepted:
                self._responses[problem] = rollout.token_ids
        if kept is None or not before:
            return coefficients, []
        old = replace(rollouts[0], token_ids=kept, logprobs=(0.0,) * len(kept), finish_reason=FinishReason.STOP)
        return coefficients, [(old, before)]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"responses": {problem: list(ids) for problem, ids in self._responses.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._responses = {problem: tuple(ids) for problem, ids in state["responses"].items()}


def make_memory_rows(
    rollouts: Sequence[Rollout],
    signal: Sequence[Sequence[float]],
    algorithm: MemoryAlgorithm,
    memory: Memory,
    learner: Learner,
    *,
    max_new_tokens: int,
    budget: int,
    reference: Reference | None = None,
    keep_all: bool = False,
) -> tuple[Rows, dict[str, float]]:
    """The rows of a step: what was sampled, then what was remembered; the memory is then that of after the step.

    Weights count the sampled ones alone: what was remembered stands in for some of their states in the chain.
    Remembered responses get the logprobs of the policy as it is, in one pass that the processes share.

    Args:
        rollouts: of all groups, one group after the other.
        signal: what each earned, by group.
        algorithm: makes coefficients of it.
        memory: of the run.
        learner: for its policy.
        max_new_tokens: the length limit.
        budget: of padded tokens in a micro-batch.
        reference: that KL is measured to: of sampled responses; at remembered ones it is 0.
        keep_all: something else in the loss (KL, entropy) has a gradient on every row.

    Returns:
        the rows; and `remembered_problems`, how many were ever solved, with `remembered_share`, the share of the step's
        chain states that were remembered from before it.
    """
    coefficients: list[float] = []
    remembered: list[tuple[Rollout, float]] = []
    flat = iter(rollouts)
    for rewards in signal:
        found, old = memory.vie([next(flat) for _ in rewards], rewards, algorithm)
        coefficients += found
        remembered += old
    own, said = _scored([old for old, _ in remembered], learner, budget)
    rows = [*rollouts, *own]
    coefficients += [count for _, count in remembered]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    weights = token_weights(algorithm.needs.aggregation, lengths, max_new_tokens)
    weights += [weights[0]] * len(own)
    references = None
    if reference is not None:
        seen = observe(rollouts, learner, reference=reference, critic=None, budget=budget)
        assert seen.reference_logprobs is not None
        references = [*seen.reference_logprobs, *said]
    kept = [i for i, count in enumerate(coefficients) if count or keep_all]
    share = sum(count for _, count in remembered) / len(rollouts)
    metrics = {"remembered_problems": float(len(memory)), "remembered_share": share}
    return Rows(rows, coefficients, weights, references).take(kept), metrics


def _scored(rollouts: list[Rollout], learner: Learner, budget: int) -> tuple[list[Rollout], list[Tensor]]:
    """With the logprobs of the policy as it is, and these as tensors."""
    if not rollouts:
        return [], []
    seen = observe(rollouts, learner, reference=None, critic=None, budget=budget, proximal=True)
    assert seen.proximal_logprobs is not None
    rows = seen.proximal_logprobs
    own = [replace(r, logprobs=tuple(row.double().tolist())) for r, row in zip(rollouts, rows, strict=True)]
    return own, [row.float() for row in rows]

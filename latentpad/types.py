"""The values that flow, one type a stage. Axes: B rollouts, T response tokens, P prompt tokens, G rollouts a prompt.

    Problem -> Prompt -> Rollout -> Episode (+ Reward) -> Group -> Batch (+ advantages, weights) -> TokenLoss

A value exists only when it is complete. None of these types has a field for a gold scratchpad: what reaches an RL arm
cannot carry one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from reward import Reward


class FinishReason(StrEnum):
    """Why a rollout ended: the policy sampled a stop token, or it was cut by the length limit."""

    STOP = "STOP"
    LENGTH = "LENGTH"


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its gold answer.

    Attributes:
        id: unique within the task and split, made of the canonical instance.
        task: the task's name.
        split: `train`, `validation` or `test`.
        cell: the slice that it is counted in, such as `digits=4`.
        question: what is asked, as the task spells it.
        answer: the gold answer, as the task spells it.
    """

    id: str
    task: str
    split: str
    cell: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem as the policy reads it."""

    problem: Problem
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response.

    Attributes:
        prompt: what was asked.
        token_ids: the T sampled tokens, the stop token included if there was one. Never re-tokenised text.
        logprobs: the sampler's logprob of each of them, in nats, at the temperature that it sampled with.
        finish_reason: STOP or LENGTH.
        policy_version: training steps that the sampling policy had taken.
        adapter_hash: hash of the trainable weights that it was sampled with; empty where nobody asked for it.
        seed: of this rollout alone.
    """

    prompt: Prompt
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int
    adapter_hash: str
    seed: int


@dataclass(frozen=True, slots=True)
class Episode:
    """A rollout with its text (stop token left out) and what its answer earned."""

    rollout: Rollout
    response: str
    reward: Reward


@dataclass(frozen=True, slots=True)
class Group:
    """All episodes of one prompt in one step."""

    prompt: Prompt
    episodes: tuple[Episode, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rollouts as tensors: prompts padded on the left to P, responses on the right to T.

    Attributes:
        token_ids: [B, P + T] int64.
        attention_mask: [B, P + T] int64, made from lengths.
        position_ids: [B, P + T] int64, 0 at the first prompt token.
        response_mask: [B, T] bool, made from lengths; true for the sampled stop token.
        rollout_logprobs: [B, T] what the algorithm's ratio is to, 0 at padding: the sampler's; with an importance
            correction those of the policy before this step, for `weights` then hold what lies between the two.
        advantages: [B, T], 0 at padding.
        weights: [B, T], 0 at padding: what each token's loss counts in the whole step. The step's loss is
            `(loss * weights).sum()` over all batches that it was cut into, so the cut cannot matter.
        reference_logprobs: [B, T] of the reference policy; None where there is no KL term.
        values: [B, T + 1] of the critic before this step; None without a critic.
        returns: [B, T] what the critic is to learn; None without a critic.
    """

    token_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    response_mask: Tensor
    rollout_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    reference_logprobs: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same batch on a device."""
        tensors: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: None if tensor is None else tensor.to(device) for n, tensor in tensors.items()}
        return Batch(**moved)


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """What an algorithm returns: unreduced losses, for the learner alone to reduce.

    Attributes:
        loss: [B, T]; entries outside the response mask mean nothing.
        metrics: name -> [B, T], to be averaged over response tokens.
    """

    loss: Tensor
    metrics: dict[str, Tensor]

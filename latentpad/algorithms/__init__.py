"""One file an algorithm: a frozen dataclass with pure `advantages` and `token_loss`; no I/O, no model."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

from latentpad.recipe.components import build
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.recipe.schema import Component
    from latentpad.types import TokenLoss

ALGORITHMS = {
    "ppo": "latentpad.algorithms.ppo:PPO",
    "grpo": "latentpad.algorithms.grpo:GRPO",
    "dr_grpo": "latentpad.algorithms.dr_grpo:DrGRPO",
    "rloo": "latentpad.algorithms.rloo:RLOO",
    "reinforce_plus_plus": "latentpad.algorithms.reinforce_plus_plus:ReinforcePlusPlus",
    "dapo": "latentpad.algorithms.dapo:DAPO",
    "gspo": "latentpad.algorithms.gspo:GSPO",
    "cispo": "latentpad.algorithms.cispo:CISPO",
    "signed": "latentpad.algorithms.signed:Signed",
}

# Those without a ratio to the sampler: one update on the policy that sampled is all that they hold for.
ONE_UPDATE_ALGORITHMS = {
    "verifree": "latentpad.algorithms.verifree:VeriFree",
    "latro": "latentpad.algorithms.latro:LaTRO",
    "jepo": "latentpad.algorithms.jepo:JEPO",
    "answer_tokens": "latentpad.algorithms.answer_tokens:AnswerTokens",
    "trice": "latentpad.algorithms.trice:TRICE",
}

Aggregation = Literal["token", "sequence", "constant"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What an algorithm asks of the loop around it.

    Attributes:
        aggregation: how token losses are averaged; see `token_weights`.
        sampling_rounds: how often a step may sample anew to replace groups without a signal (DAPO); 1 keeps them.
        overlong_buffer: the last so many tokens before the length limit cost up to 1 of reward (DAPO); 0 costs nothing.
        credit_decay: what is left of a reward's credit from one token to the one before it (PPO's lambda).
    """

    aggregation: Aggregation = "token"
    sampling_rounds: int = 1
    overlong_buffer: int = 0
    credit_decay: float = 1.0


class TokenObjective(Protocol):
    """What every algorithm brings."""

    @property
    def needs(self) -> Needs:
        """What it asks of the loop."""
        ...

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses [B, T] from tensors [B, T]; entries where `mask` is false mean nothing, in and out."""
        ...


@runtime_checkable
class GroupAlgorithm(TokenObjective, Protocol):
    """One whose advantages come from rewards alone: one a rollout."""

    def advantages(self, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """From rewards (and response tokens) by group to advantages by group, over the whole step."""
        ...


@dataclass(frozen=True, slots=True)
class Critic:
    """How values are learned.

    Attributes:
        kind: `head` on the policy's own trunk, or a `model` of its own that starts as a copy of the policy.
        learning_rate: of the head, or of that model.
        lora_rank: the model's own LoRA; 0 trains all its weights. Not used by `head`.
        minibatches: optimizer steps of the model on each step's rollouts (of the head: while it is pretrained).
        pretraining_steps: the first so many steps of training fit the values alone.
        loss_coef: weight of the value loss in the gradient of the shared trunk; 0 cuts it off. Not used by `model`.
    """

    kind: Literal["head", "model"] = "model"
    learning_rate: float = 1e-3
    lora_rank: int = 0
    minibatches: int = 4
    pretraining_steps: int = 5
    loss_coef: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("learning_rate", "minibatches"):
            if not 0 < getattr(self, name) < inf:  # nan is refused too
                raise RecipeError(f"{name}: got {getattr(self, name)}; expected more than 0")
        for name in ("lora_rank", "pretraining_steps", "loss_coef"):
            if not 0 <= getattr(self, name) < inf:
                raise RecipeError(f"{name}: got {getattr(self, name)}; expected 0 or more")
        if self.kind == "head" and self.lora_rank:
            raise RecipeError("lora_rank is of a 'model'; a 'head' stands on the policy's own trunk: remove it")


@runtime_checkable
class CriticAlgorithm(TokenObjective, Protocol):
    """One whose advantages come from rewards and values: one a token."""

    @property
    def critic(self) -> Critic:
        """How its values are learned."""
        ...

    def token_advantages(
        self, rewards: Tensor, values: Tensor, lengths: Tensor, truncated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [B, T] of the whole step.

        Args:
            rewards: [B, T], 0 but where something was earned or paid.
            values: [B, T + 1]; column t is the value before token t, column `lengths[b]` that after the last token.
            lengths: [B] response tokens; whatever stands beyond them means nothing.
            truncated: [B] whether the response was cut by the length limit.
        """
        ...

    def value_loss(self, *, values: Tensor, old_values: Tensor, returns: Tensor) -> TokenLoss:
        """Unreduced losses [B, T] of the values, from tensors [B, T]."""
        ...


# The gold answer after each sampled scratchpad, or the response as it was sampled.
Target = Literal["reference", "sampled"]

# What the tokens of a response's scratchpad count in the loss, and what those of its answer do.
Coefficients = tuple[float, float]


@runtime_checkable
class AnswerAlgorithm(TokenObjective, Protocol):
    """One that treats scratchpad and answer apart, and may ask how likely the gold answer is: two numbers a rollout."""

    @property
    def target(self) -> Target:
        """Which answer its rows end in."""
        ...

    @property
    def pays_kl(self) -> bool:
        """Whether KL to a reference may be taken off what a scratchpad earns (`rl.kl.place: reward`)."""
        ...

    def coefficients(
        self,
        rewards: Sequence[Sequence[float]],
        answer_logprobs: Sequence[Sequence[float]] | None,
        paid: Sequence[Sequence[float]] | None,
    ) -> list[list[Coefficients]]:
        """What the loss -coefficient * logprob of each token is made with, by group, over the whole step.

        Args:
            rewards: from 0 to 1.
            answer_logprobs: log pi(gold answer | prompt, scratchpad) in nats, or given that there is none; None where
                `target` is `sampled`.
            paid: for the KL of each scratchpad to a reference; None where it costs nothing.
        """
        ...


@runtime_checkable
class MemoryAlgorithm(TokenObjective, Protocol):
    """One that remembers a right response to each problem."""

    def chain(self, right: Sequence[bool], *, remembers: bool) -> tuple[list[float], float]:
        """The coefficients of one problem's rollouts, and of the response to it that was remembered from before."""
        ...


Algorithm = GroupAlgorithm | CriticAlgorithm | AnswerAlgorithm | MemoryAlgorithm


def build_algorithm(component: Component) -> Algorithm:
    """The algorithm that a recipe names. Raises `RecipeError`."""
    return cast("Algorithm", build("algorithm", component, ALGORITHMS | ONE_UPDATE_ALGORITHMS))


def token_weights(aggregation: Aggregation, lengths: Sequence[int], max_new_tokens: int) -> list[float]:
    """What each token of each rollout counts, over the whole step before any of it is cut away or split.

    - `token`: every token of the step the same, 1 / sum(lengths) (DAPO).
    - `sequence`: every rollout the same, 1 / (B * length) (GRPO as published).
    - `constant`: 1 / (B * max_new_tokens), so that no length is favoured (Dr. GRPO).

    Args:
        aggregation: which of them.
        lengths: response tokens of all B rollouts of the step.
        max_new_tokens: the length limit.

    >>> token_weights("sequence", [2, 4], 8)
    [0.25, 0.125]
    """
    count, total = len(lengths), sum(lengths)
    if not count:
        return []
    if aggregation == "token":
        return [1 / total] * count
    if aggregation == "sequence":
        return [1 / (count * length) for length in lengths]
    return [1 / (count * max_new_tokens)] * count

"""One file an algorithm: a frozen dataclass with pure `advantages` and `token_loss`; no I/O, no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

from latentpad.recipe.components import build

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.recipe.schema import Component
    from latentpad.types import TokenLoss

ALGORITHMS = {
    "grpo": "latentpad.algorithms.grpo:GRPO",
}

Aggregation = Literal["token", "sequence", "constant"]


class Algorithm(Protocol):
    """What an algorithm brings."""

    @property
    def aggregation(self) -> Aggregation:
        """How token losses are averaged; see `token_weights`."""
        ...

    @property
    def kl_coef(self) -> float:
        """The weight of the KL term in the loss; 0 needs no reference."""
        ...

    def advantages(self, rewards: Sequence[Sequence[float]]) -> list[list[float]]:
        """From rewards by group to advantages by group, over the whole step."""
        ...

    def token_loss(
        self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, reference_logprobs: Tensor | None
    ) -> TokenLoss:
        """Unreduced losses [B, T] from tensors [B, T]."""
        ...


def build_algorithm(component: Component) -> Algorithm:
    """The algorithm that a recipe names. Raises `RecipeError`."""
    return cast("Algorithm", build("algorithm", component, ALGORITHMS))


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
    if aggregation == "token":
        return [1 / total] * count
    if aggregation == "sequence":
        return [1 / (count * length) for length in lengths]
    return [1 / (count * max_new_tokens)] * count

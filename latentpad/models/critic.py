"""Value functions: a linear head on the policy's own trunk, or on a model of its own."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from latentpad.models.policy import with_lora
from latentpad.models.quiet import quiet_libraries
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import LoraSection


class ValueHead(torch.nn.Module):
    """A linear layer from the last hidden state to one number, 0 at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        with torch.random.fork_rng():  # its first weights are drawn, and thrown away
            self.linear = torch.nn.Linear(hidden_size, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, H] to [B, T]."""
        weight: Tensor = self.linear.weight
        values: Tensor = self.linear(hidden.to(weight.dtype)).squeeze(-1)
        return values


def value_head(policy: Policy) -> ValueHead:
    """A head that fits the policy's trunk."""
    embeddings = policy.model.get_input_embeddings().weight
    dtype = embeddings.dtype if embeddings.dtype == torch.float64 else torch.float32
    return ValueHead(policy.model.config.hidden_size).to(policy.device, dtype)


def critic_trunk(policy: Policy, *, lora: LoraSection | None, seed: int) -> Any:
    """A copy of the policy's starting weights to be trained as a critic: all of it, or an adapter of its own.

    Args:
        policy: before its first step of training; its adapter, which does nothing yet, is left out.
        lora: train only a new adapter.
        seed: of that adapter.

    Raises:
        RecipeError: all of it, but the policy's weights are quantised.
    """
    if lora is None and policy.quantised:
        raise RecipeError(
            "algorithm.critic.lora_rank: weights in 4 bits cannot be trained: with model.quantisation a critic of kind "
            "'model' needs a rank"
        )
    trunk = deepcopy(policy.model)
    if policy.uses_lora:
        trunk = trunk.unload()
    if lora is not None:
        with quiet_libraries():
            return with_lora(trunk, lora, seed)
    trunk.requires_grad_(True)
    for parameter in trunk.parameters():
        if parameter.dtype == torch.bfloat16:  # held so while it was frozen
            parameter.data = parameter.data.float()
    head = trunk.get_output_embeddings()
    if head is not None and head.weight is not trunk.get_input_embeddings().weight:
        head.requires_grad_(False)  # a critic predicts no tokens
    return trunk

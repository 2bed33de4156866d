"""The policy that KL is measured to: a named snapshot of the trained weights."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from latentpad.models.policy import Policy


@dataclass
class Reference:
    """The policy with other trained weights: with LoRA an adapter, otherwise all of them.

    They are laid under the parameters for a forward pass and taken away again; nothing is merged or rounded.

    Attributes:
        policy: whose weights are exchanged.
        weights: by the names of `policy.trainable()`.
    """

    policy: Policy
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, policy: Policy) -> Reference:
        """The policy as it is now."""
        return cls(policy, snapshot(policy))

    @classmethod
    def load(cls, policy: Policy, weights: dict[str, Tensor], source: Path) -> Reference:
        """Weights that were saved.

        Raises:
            RecipeError: they are not of the same names and shapes as those that the policy trains.
        """
        wanted = {name: p.shape for name, p in policy.trainable().items()}
        if wanted != {name: tensor.shape for name, tensor in weights.items()}:
            raise RecipeError(f"rl.kl.reference: {source} does not train the same weights as this run")
        return cls(policy, {name: tensor.to(policy.device) for name, tensor in weights.items()})

    def retake(self) -> None:
        """From now on the policy as it is now."""
        self.weights = snapshot(self.policy)

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The policy's model with the reference's weights, for the time of the `with` block."""
        parameters = self.policy.trainable()
        own = {name: p.data for name, p in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.weights[name]
            yield self.policy.model
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]


@torch.no_grad()
def snapshot(policy: Policy) -> dict[str, Tensor]:
    """A copy of the trained weights, by name."""
    return {name: p.detach().clone() for name, p in policy.trainable().items()}

"""The pull to a reference: which policy that is, where the term stands, and how strong it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from latentpad.models.reference import Reference
from latentpad.recipe.errors import RecipeError
from latentpad.training.checkpoint import STATE, verify
from latentpad.training.kl_control import KLControl

if TYPE_CHECKING:
    from latentpad.models.policy import Policy
    from latentpad.recipe.rl_schema import KLSection


class KLTerm:
    """KL to the reference in the loss or in the reward, as a recipe's `rl.kl` says; without one it does nothing."""

    def __init__(self, policy: Policy, section: KLSection | None) -> None:
        """Made before the policy's first step: `base` and the first `moving` reference are the policy as it is then.

        Raises:
            RecipeError: the reference is a checkpoint that cannot be read or does not fit.
        """
        self._section = section
        self._control = KLControl(0.0, None) if section is None else KLControl(section.coef, section.target)
        self.reference: Reference | None = None
        if section is not None:
            named = section.reference in ("base", "moving")
            self.reference = Reference.of(policy) if named else _from_checkpoint(policy, Path(section.reference))

    @property
    def estimator(self) -> Literal["k2", "k3"]:
        """Of the term in the loss."""
        return (self._section and self._section.estimator) or "k3"

    @property
    def loss_coef(self) -> float:
        """The weight of KL in the loss in this step."""
        return self._control.coef if self._section is not None and self._section.place == "loss" else 0.0

    @property
    def reward_coef(self) -> float:
        """The weight of KL in the reward in this step."""
        return self._control.coef if self._section is not None and self._section.place == "reward" else 0.0

    def after_step(self, step: int, kl: float | None) -> dict[str, float]:
        """Steer the weight by the KL of step number `step` (from 0), move a moving reference; the weight used."""
        if self._section is None or self.reference is None:
            return {}
        used = self._control.coef
        if kl is not None:
            self._control.observe(kl)
        if self._section.refresh_every is not None and (step + 1) % self._section.refresh_every == 0:
            self.reference.retake()
        return {"kl_coef": used}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the weight, and where the reference moves, its weights."""
        moving = self._section is not None and self._section.reference == "moving"
        weights = {} if self.reference is None or not moving else self.reference.weights
        return {"control": self._control.state(), "weights": {name: t.cpu().clone() for name, t in weights.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._control.load(state["control"])
        if state["weights"] and self.reference is not None:
            device = self.reference.policy.device
            self.reference.weights = {name: tensor.to(device) for name, tensor in state["weights"].items()}


def _from_checkpoint(policy: Policy, path: Path) -> Reference:
    """The weights that a run of the same shape trained, from its checkpoint.

    Raises:
        RecipeError: no such checkpoint, torn, of other weights, or on another base.
    """
    if not (path / STATE).is_file():
        raise RecipeError(
            f"rl.kl.reference: got {str(path)!r}; expected base, moving, or a checkpoint of an RL run (with a {STATE})"
        )
    verify(path)
    state = torch.load(path / STATE, weights_only=True)
    if state["base"] != policy.base_hash():
        raise RecipeError(f"rl.kl.reference: {path} was trained on other base weights than this run starts from")
    return Reference.load(policy, state["weights"], path)

"""The policy that a recipe starts from: in the trainer and, the very same, in every rollout worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from latentpad.formats import get_format
from latentpad.models.activations import checkpoint_activations
from latentpad.models.policy import load_policy, new_policy
from latentpad.tasks import build_task

if TYPE_CHECKING:
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe


def starting_policy(recipe: Recipe) -> Policy:
    """Built or loaded as the recipe says, its new weights drawn from the recipe's seed.

    Raises:
        RecipeError: there is no readable checkpoint, or sizes that no model can have.
        MachineError: a package is missing.
    """
    precision = recipe.training.precision
    if recipe.model.scratch is not None:
        alphabet = build_task(recipe.task).alphabet + get_format(recipe.format).alphabet
        policy = new_policy(recipe.model.scratch, alphabet, seed=recipe.seed)
    else:
        model = recipe.model
        policy = load_policy(
            Path(model.path or ""),
            lora=model.lora,
            seed=recipe.seed,
            quantisation=model.quantisation,
            precision=precision,
        )
    if recipe.training.activation_checkpointing:
        checkpoint_activations(policy.model)
    return replace(policy, precision=precision)

"""How much a recipe takes at a time, whatever its method: responses sampled, rows learned from, weights kept aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentpad.recipe.schema import Recipe


def sampled(recipe: Recipe) -> int:
    """Responses asked for at once while training; 0 where none are."""
    if recipe.rl is not None:
        return recipe.rl.prompts_per_step * recipe.rl.group_size
    section = recipe.expert_iteration
    return 0 if section is None else section.prompts_per_round * section.samples_per_prompt


def learned(recipe: Recipe) -> int:
    """Rows of a training step."""
    if recipe.expert_iteration is not None:
        return recipe.expert_iteration.rows_per_step
    if recipe.pretrain is not None:
        return recipe.pretrain.documents_per_step
    if recipe.supervised is not None:
        return recipe.supervised.examples_per_step
    return max(1, sampled(recipe))


def keeps_snapshot(recipe: Recipe) -> bool:
    """Whether a copy of the trained weights is kept: to measure KL to, or to begin each round with."""
    section = recipe.expert_iteration
    if section is not None:
        return section.restart == "base" and section.rounds > 1
    return recipe.rl is not None and recipe.rl.kl is not None

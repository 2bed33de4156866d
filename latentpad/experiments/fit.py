"""Whether a recipe's run will fit into the memory that this machine has, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentpad.doctor.machine import memory
from latentpad.experiments.memory import estimate, readable
from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    from latentpad.recipe.schema import Recipe


def check_memory(recipe: Recipe, *, world_size: int = 1, zero_stage: int = 0) -> tuple[bool, str]:
    """Whether the estimate is below what is free now, and a line that says so.

    Args:
        recipe: checked.
        world_size: processes that share the work; they are taken to have this machine's memory each.
        zero_stage: of DeepSpeed, 0 without.

    Raises:
        MachineError: the weights alone are more than there is in all: the run cannot even begin.
        RecipeError: the model's config is missing or unknown.
    """
    found = estimate(recipe, world_size=world_size, zero_stage=zero_stage)
    total, free, whose = _there()
    if found.weights > total:
        raise MachineError(
            f"the weights alone take {readable(found.weights)}, the {whose} has {readable(total)}: take a smaller model"
            + ("" if recipe.model.quantisation else ", or model.lora with model.quantisation=nf4")
        )
    line = f"memory: {found.lines()[0]}; {readable(free)} of the {whose} are free"
    if found.total <= free:
        return True, line
    if found.rollout > found.learning:
        fix = "a smaller rollout.chunk_size"
    else:
        fix = "a smaller training.micro_batch_tokens, or training.activation_checkpointing"
    return False, f"{line}, which may not be enough: {fix} takes less ('latentpad check --full' measures it)"


def _there() -> tuple[int, int, str]:
    """Bytes in all, bytes free, and of what."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total, free, "GPU"
    have = memory()
    return have.total, have.free, "machine"

"""What is really in effect in this process, found in torch and the model, not in what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    from latentpad.launch import Launch
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.training.processes.strategy import Strategy


def in_effect(recipe: Recipe, policy: Policy, strategy: Strategy, launch: Launch) -> list[str]:
    """Processes, precision, trained weights and how a step is shared out, a line each.

    Raises:
        MachineError: something is not as it was asked for.
    """
    return [
        _processes(strategy, launch),
        _weights(recipe, policy),
        *([] if recipe.method != "rl" else [_chunks(recipe, strategy.world.size)]),
        *launch.notes,
    ]


def _processes(strategy: Strategy, launch: Launch) -> str:
    found, backend = 1, ""
    if torch.distributed.is_initialized():
        found, backend = torch.distributed.get_world_size(), f", exchanging by {torch.distributed.get_backend()}"
    if found != launch.world_size:
        raise MachineError(f"the launcher asked for {launch.world_size} processes, {found} have joined")
    where = torch.cuda.get_device_name() if strategy.world.device == "cuda" else "CPU"
    count = "1 process" if found == 1 else f"{found} processes"
    return f"{count} by {launch.launcher}{backend}; {strategy.name} on {where}, {torch.get_num_threads()} threads each"


def _weights(recipe: Recipe, policy: Policy) -> str:
    """Precision is asked of the model itself: by the type of a sum that it computes."""
    trained = list(policy.trainable().values())
    numbers, everything = (sum(p.numel() for p in ps) for ps in (trained, policy.model.parameters()))
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in trained})
    weight = torch.zeros(1, 1, device=policy.device)
    with policy.arithmetic():
        computed = str((weight @ weight).dtype).removeprefix("torch.")
    wanted = "bfloat16" if recipe.training.precision == "bf16" else "float32"
    if computed != wanted or kinds != ["float32"]:
        raise MachineError(f"asked to compute in {wanted} and train float32 weights: found {computed} and {kinds}")
    if recipe.model.lora is not None and not policy.uses_lora:
        raise MachineError("model.lora is asked for, and the model has no adapter")
    if recipe.model.quantisation is not None and not policy.quantised:
        raise MachineError("model.quantisation is asked for, and the weights are not in 4 bits")
    held = ", frozen ones in 4 bits (nf4)" if policy.quantised else ""
    how = f"LoRA rank {recipe.model.lora.rank}" if recipe.model.lora is not None else "all weights"
    kind = recipe.training.optimizer or "adamw"
    saved = ", activations computed anew" if recipe.training.activation_checkpointing else ""
    count = f"{numbers:,} of {everything:,} numbers"
    return f"{how}: {count} trained by {kind} in float32{held}, computed in {computed}{saved}"


def _chunks(recipe: Recipe, processes: int) -> str:
    rollouts = recipe.rl_section.prompts_per_step * recipe.rl_section.group_size
    chunks = -(-rollouts // recipe.rollout.chunk_size)
    line = f"a step's {rollouts} rollouts in {chunks} chunk{'s' if chunks > 1 else ''}"
    if chunks % processes:
        fit = max(recipe.rl_section.group_size, rollouts // processes)
        line += f", which {processes} processes cannot share evenly (rollout.chunk_size={fit} would)"
    return line

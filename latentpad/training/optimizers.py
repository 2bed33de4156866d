"""The optimizers that a recipe names by `training.optimizer`: AdamW, or one of bitsandbytes with an 8-bit state."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable


def make_optimizer(
    kind: str | None, parameters: list[torch.nn.Parameter], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or an optimizer that keeps its moments in 8 bits, block by block (Dettmers et al. 2022).

    Of tensors with fewer than 4096 numbers bitsandbytes keeps the moments in 32 bits (its `min_8bit_size`): those of an
    adapter of low rank on a small model cost what they cost with AdamW. Paged memory is a GPU's; on a CPU
    `paged_adamw_8bit` is `adamw_8bit`.

    Args:
        kind: `adamw` (as is None), `adamw_8bit`, `paged_adamw_8bit` or `lion_8bit` (Chen et al. 2023).
        parameters: what it moves.
        lr: its learning rate; Lion's is usually a third to a tenth of AdamW's.
        weight_decay: decoupled.

    Raises:
        MachineError: bitsandbytes is not installed.
    """
    if kind in (None, "adamw"):
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    if find_spec("bitsandbytes") is None:
        raise MachineError(f"training.optimizer {kind!r} needs bitsandbytes: pip install 'latentpad[bitsandbytes]'")
    from latentpad.models.quiet import quiet_libraries

    with quiet_libraries():
        from bitsandbytes import optim

    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw_8bit": optim.AdamW8bit,
        "paged_adamw_8bit": optim.AdamW8bit if on_cpu else optim.PagedAdamW8bit,
        "lion_8bit": optim.Lion8bit,
    }
    return kinds[str(kind)](parameters, lr=lr, weight_decay=weight_decay)

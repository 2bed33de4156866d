"""A DeepSpeed configuration, found to say only what will be in effect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from latentpad.recipe.errors import RecipeError, unknown

if TYPE_CHECKING:
    from pathlib import Path

# What a DeepSpeed configuration may say here. `zero_optimization` goes to DeepSpeed as it is.
_PASSED_ON = ("zero_optimization", "steps_per_print", "wall_clock_breakdown", "comms_logger", "communication_data_type")
# What the recipe decides: `auto` or left out.
_RECIPE_DECIDES = {
    "train_batch_size": "rl.prompts_per_step, supervised.examples_per_step or pretrain.documents_per_step",
    "train_micro_batch_size_per_gpu": "training.micro_batch_tokens",
    "gradient_accumulation_steps": "training.micro_batch_tokens",
    "gradient_clipping": "training.max_grad_norm",
}


def read_deepspeed(file: Path) -> dict[str, Any]:
    """A DeepSpeed configuration, found to say only what will be in effect.

    Raises:
        RecipeError: not readable, or it decides what the recipe decides.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"--deepspeed {file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecipeError(f"--deepspeed {file}: not readable as JSON ({error})") from error
    if not isinstance(data, dict):
        raise RecipeError(f"--deepspeed {file}: expected a JSON object, got {type(data).__name__}")
    return check_deepspeed(data, str(file))


def check_deepspeed(data: dict[str, Any], where: str) -> dict[str, Any]:
    """What of a DeepSpeed configuration is passed on to it; raises as `read_deepspeed`."""
    for key, decides in _RECIPE_DECIDES.items():
        if data.get(key, "auto") != "auto":
            raise RecipeError(f'{where}: {key}: the recipe decides it ({decides}): set it to "auto" or remove it')
    for key, instead in (("fp16", "training.precision: bf16"), ("bf16", "training.precision")):
        if (data.get(key) or {}).get("enabled", "auto") not in ("auto", False):
            raise RecipeError(
                f'{where}: {key}.enabled: the recipe decides it ({instead}): set it to "auto" or remove it'
            )
    for key in ("optimizer", "scheduler"):
        if key in data:
            raise RecipeError(f"{where}: {key}: the recipe's section 'training' decides it: remove it")
    known = {*_PASSED_ON, *_RECIPE_DECIDES, "fp16", "bf16"}
    for key in data:
        if key not in known:
            raise RecipeError(f"{where}: {unknown('key', key, known)}: latentpad would not put it into effect")
    zero = data.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in (1, 2, 3):
        got = zero.get("stage") if isinstance(zero, dict) else None
        raise RecipeError(
            f"{where}: zero_optimization.stage: got {got!r}; expected 1, 2 or 3 (without ZeRO launch without DeepSpeed)"
        )
    if (zero.get("offload_param") or {}).get("device", "none") != "none":
        raise RecipeError(f"{where}: zero_optimization.offload_param is not supported: remove it")
    device = (zero.get("offload_optimizer") or {}).get("device", "none")
    if device not in ("none", "cpu"):
        raise RecipeError(f"{where}: zero_optimization.offload_optimizer.device: got {device!r}; expected cpu or none")
    return {key: value for key, value in data.items() if key in _PASSED_ON}

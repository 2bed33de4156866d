"""NF4: frozen weights in 4 bits with double quantisation (QLoRA, Dettmers et al. 2023), through bitsandbytes.

Each linear layer but the output head holds 4 bits a weight, and for each block of 64 weights a scale of 8 bits, which
are scaled in blocks of 256 themselves: about 4.13 bits a weight. Embeddings, norms and the output head are not
quantised. A forward pass computes each layer's weights anew in the compute dtype, the same way while sampling and
while learning.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from latentpad.recipe.errors import MachineError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

MISSING = "needs bitsandbytes: pip install 'latentpad[bitsandbytes]'"


def frozen_dtype(precision: str | None) -> torch.dtype:
    """The dtype in which weights under an adapter are held, and quantised layers compute: `training.precision`."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def load_quantised(auto: Any, path: Path, *, precision: str | None, device: str) -> Any:
    """A full checkpoint, its linear layers quantised while it is read.

    Args:
        auto: the class of transformers that reads it.
        path: the checkpoint's folder.
        precision: `training.precision`, of what is not quantised and of what is computed.
        device: where the model shall be.

    Raises:
        MachineError: bitsandbytes is not installed.
        RecipeError: a layer does not divide into blocks.
    """
    return _checked(auto.from_pretrained(path, **_options(precision, device)))


def quantise(model: Any, *, precision: str | None, device: str) -> Any:
    """A copy of a model in memory with its linear layers quantised: for an adapter merged into its base.

    Raises:
        MachineError: bitsandbytes is not installed.
        RecipeError: a layer does not divide into blocks.
    """
    options = _options(precision, device)
    return _checked(type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict(), **options))


def quantisation_state(parameter: torch.nn.Parameter) -> dict[str, Tensor]:
    """All that a quantised weight consists of beside its codes: scales, their scales, code book; of others nothing."""
    state = getattr(parameter, "quant_state", None)
    return {} if state is None else state.as_dict(packed=True)


def _options(precision: str | None, device: str) -> dict[str, Any]:
    if find_spec("bitsandbytes") is None:
        raise MachineError(f"model.quantisation {MISSING}")
    from transformers import BitsAndBytesConfig

    dtype = frozen_dtype(precision)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {
        "quantization_config": config,
        "device_map": {"": device},
        "dtype": dtype,
        "attn_implementation": "sdpa",
    }


def _checked(model: Any) -> Any:
    """Guard against two ways in which bitsandbytes 0.50 is silently wrong on a CPU.

    Where rows are no multiple of a block, its AVX-512 kernel takes the wrong scales. Where the CPU has AVX512-BF16, a
    layer's first pass in evaluation mode repacks its weights for good, with scales rounded to bfloat16, for a kernel
    without a gradient: nothing below such a layer would be learned any more.
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            if module.in_features % module.weight.blocksize:
                raise RecipeError(
                    f"model.quantisation: {name} has rows of {module.in_features} weights; nf4 needs a multiple of "
                    f"{module.weight.blocksize}"
                )
            module.support_avx512bf16_for_cpu = False
    return model

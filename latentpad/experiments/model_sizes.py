"""How large a model is, from its config alone: built on the meta device, where weights have shapes and no memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.models.quiet import quiet_libraries
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from latentpad.recipe.schema import ModelSection, ScratchSection

ADAPTER_CONFIG = "adapter_config.json"  # as in latentpad.models.policy, which imports more
# NF4 with double quantisation (Dettmers et al. 2023): weights to a block, and blocks to a block of their scales.
_BLOCK, _SCALES = 64, 256
# Code books and an offset, one a layer.
_NF4_TABLES = 4 * (16 + 256 + 1)


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight tensor; weights that are tied are one.

    Attributes:
        shape: of the tensor.
        place: `linear` in a linear layer that an adapter goes on, `head` in an output head of its own, else `other`.
    """

    shape: tuple[int, ...]
    place: str

    @property
    def numbers(self) -> int:
        """How many it holds."""
        return prod(self.shape)

    @property
    def nf4_bytes(self) -> int:
        """In 4 bits: about 0.516 a number, of which 1/64 is the scales of blocks, and 1/4096 the scales of those.

        >>> round(Weight((4096, 4096), "linear").nf4_bytes / 4096**2, 4)
        0.5159
        """
        blocks = ceil(self.numbers / _BLOCK)
        return ceil(self.numbers / 2) + blocks + 4 * ceil(blocks / _SCALES) + _NF4_TABLES


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What an estimate of memory needs to know of a decoder.

    Attributes:
        weights: all of them.
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width inside a feed-forward layer.
        queries: width of all attention heads together.
        keys: width of all key heads together, that of the values too.
        vocabulary: logits of a token.
        plain_head: whether the output head is an ordinary linear layer (`latentpad.training.chunked_head`).
    """

    weights: tuple[Weight, ...]
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    plain_head: bool

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(weight.numbers for weight in self.weights)

    def adapter(self, rank: int) -> list[int]:
        """Numbers of each tensor of a LoRA adapter on all linear layers: r * in and r * out (Hu et al. 2021)."""
        return [rank * side for w in self.weights if w.place == "linear" and len(w.shape) == 2 for side in w.shape]


def model_sizes(model: ModelSection, *, vocabulary: int) -> ModelSizes:
    """The sizes of a recipe's model.

    Args:
        model: `path` to a checkpoint or an adapter (of which the base counts), or `scratch`.
        vocabulary: of the tokenizer; used for `scratch` alone.

    Raises:
        RecipeError: the config is missing or unknown.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_libraries():
        config = _scratch_config(model.scratch, vocabulary) if model.scratch else _config(Path(model.path or ""))
        with torch.device("meta"):
            made = AutoModelForCausalLM.from_config(config)
    return _measured(made)


def _config(path: Path) -> Any:
    from transformers import AutoConfig

    seen = [path]
    while (path / ADAPTER_CONFIG).is_file():
        path = Path(str(json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]))
        if path in seen:
            break
        seen.append(path)
    if not (path / "config.json").is_file():
        raise RecipeError(f"model.path: {path} holds no config.json: give the folder of a checkpoint")
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"model.path: transformers cannot read {path / 'config.json'} ({error})") from error


def _scratch_config(sizes: ScratchSection, vocabulary: int) -> Any:
    """The sizes of `latentpad.models.policy.new_policy`, which also says what changes no size."""
    from transformers import AutoConfig

    untied = {"tie_word_embeddings": False} if sizes.nope_layers is not None else {}
    try:
        return AutoConfig.for_model(
            sizes.architecture,
            vocab_size=vocabulary,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=sizes.max_positions,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            **untied,
        )
    except ValueError as error:
        raise RecipeError(f"model.scratch.architecture: transformers has no {sizes.architecture!r}") from error


def _measured(model: Any) -> ModelSizes:
    import torch

    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    heads = {id(p) for p in head.parameters()} if head is not None and not tied else set()
    linear = {
        id(module.weight)
        for module in model.modules()
        if module is not head and (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
    }
    weights = tuple(
        Weight(tuple(p.shape), "head" if id(p) in heads else "linear" if id(p) in linear else "other")
        for p in model.parameters()
    )
    config = model.config.get_text_config()
    attention_heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // attention_heads
    return ModelSizes(
        weights=weights,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        queries=attention_heads * width,
        keys=(getattr(config, "num_key_value_heads", None) or attention_heads) * width,
        vocabulary=config.vocab_size,
        plain_head=type(head) is torch.nn.Linear,
    )

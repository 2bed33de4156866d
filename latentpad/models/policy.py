"""Building or loading a policy: an ordinary causal language model of transformers, with peft's LoRA or without."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latentpad.models.quantised import frozen_dtype, load_quantised, quantisation_state, quantise
from latentpad.models.quiet import quiet_libraries
from latentpad.models.tokenizer import character_tokenizer, fast_tokenizer, stop_token_ids
from latentpad.recipe.errors import RecipeError
from latentpad.seeding import seed_of
from reward import CLOSE_TAG, OPEN_TAG

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from latentpad.recipe.schema import LoraSection, ScratchSection

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Policy:
    """A model with its tokenizer.

    Attributes:
        model: a `PreTrainedModel`, or a `PeftModel` around one.
        tokenizer: an ordinary fast tokenizer.
        stop_ids: every token that ends a response.
        device: where the model is.
        precision: of its forward passes, float32 unless `bf16`.
    """

    model: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    device: str
    precision: str | None = None

    def arithmetic(self) -> AbstractContextManager[object]:
        """Within the block forward passes are computed in the policy's precision; sampler and learner both ask."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    @property
    def uses_lora(self) -> bool:
        """Whether only an adapter is trained."""
        return hasattr(self.model, "peft_config")

    @property
    def quantised(self) -> bool:
        """Whether the weights that are not trained are held in 4 bits."""
        return bool(getattr(self.model, "is_loaded_in_4bit", False))

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def trainable_hash(self) -> str:
        """SHA-256 of the trained weights, to the bit."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.trainable().items()):
            digest.update(name.encode())
            digest.update(_bytes_of(parameter))
        return digest.hexdigest()

    def base_hash(self) -> str:
        """SHA-256 of the weights that are not trained, to the bit: what an adapter stands on, scales included."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            if not parameter.requires_grad:
                digest.update(name.encode())
                digest.update(_bytes_of(parameter))
                for part, tensor in sorted(quantisation_state(parameter).items()):
                    digest.update(part.encode())
                    digest.update(_bytes_of(tensor))
        return digest.hexdigest()

    @cached_property
    def scratchpad_ids(self) -> tuple[int, ...]:
        """The tokens that open or close a scratchpad.

        Raises:
            RecipeError: a tag is not one token, so it cannot be forbidden.
        """
        vocabulary = self.tokenizer.get_vocab()
        for tag in (OPEN_TAG, CLOSE_TAG):
            if tag not in vocabulary:
                raise RecipeError(
                    f"scratchpad: 'empty' needs {tag} to be one token of the tokenizer: add it as a token"
                )
        return tuple(vocabulary[tag] for tag in (OPEN_TAG, CLOSE_TAG))

    def save(self, folder: Path) -> None:
        """An ordinary checkpoint (or an ordinary peft adapter) with its tokenizer."""
        with quiet_libraries():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    """Of any dtype: numpy knows no bfloat16."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def default_device() -> str:
    """`cuda` if there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def new_policy(sizes: ScratchSection, alphabet: str, *, seed: int) -> Policy:
    """A model from scratch over a character tokenizer, its weights drawn from `seed`.

    Raises:
        RecipeError: transformers has no such architecture, or it does not take these sizes.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = fast_tokenizer(character_tokenizer(alphabet))
    try:
        config = AutoConfig.for_model(
            sizes.architecture,
            vocab_size=len(tokenizer),
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=sizes.max_positions,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **_positional(sizes),
        )
    except ValueError as error:
        raise RecipeError(f"model.scratch.architecture: transformers has no {sizes.architecture!r}") from error
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("model", seed))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    _switch_off_dropout(model)
    device = default_device()
    return Policy(model.to(device), tokenizer, stop_token_ids(None, tokenizer), device)


def _positional(sizes: ScratchSection) -> dict[str, Any]:
    """SmolLM3's `no_rope_layers`: for each layer whether it *has* rotary positions, whatever the name says."""
    if sizes.nope_layers is None:
        return {}
    bare = range(sizes.layers) if sizes.nope_layers == "all" else sizes.nope_layers
    return {"no_rope_layers": [int(layer not in bare) for layer in range(sizes.layers)], "tie_word_embeddings": False}


def load_policy(
    path: Path,
    *,
    lora: LoraSection | None = None,
    seed: int = 0,
    quantisation: str | None = None,
    precision: str | None = None,
) -> Policy:
    """A policy from a checkpoint in the transformers format, or from a peft adapter (merged into a copy of its base).

    Merging is done in float32, whatever the adapter was trained over: only then are weights quantised or rounded.

    Args:
        path: folder with a model or an adapter, and a fast tokenizer.
        lora: wrap the model in a new adapter and train only that.
        seed: of the new adapter's weights.
        quantisation: with `lora`: hold the weights under the adapter in 4 bits (`nf4`).
        precision: with `lora`: hold what else is under the adapter in bfloat16 (`bf16`). What is trained is float32.

    Raises:
        RecipeError: there is no readable checkpoint, or it cannot be quantised.
        MachineError: bitsandbytes is not installed, and the weights are to be quantised.
    """
    from transformers import AutoModelForCausalLM

    with quiet_libraries():
        if lora is None:
            model = _load_merged(path, AutoModelForCausalLM)
        else:
            model = with_lora(_load_frozen(path, AutoModelForCausalLM, quantisation, precision), lora, seed)
    return _with_tokenizer(path, model)


def trained_policy(checkpoint: Path, *, quantisation: str | None = None, precision: str | None = None) -> Policy:
    """What a run has trained, over the very weights that it was trained over: the policy to evaluate.

    An adapter over float32 weights is merged into them. One over weights that were quantised or rounded stays beside
    them: merged into the weights of before it would be another policy than the one that was trained.

    Args:
        checkpoint: of the run.
        quantisation: the run's `model.quantisation`.
        precision: the run's `training.precision`.

    Raises:
        RecipeError: there is no readable checkpoint, or its base cannot be quantised.
        MachineError: bitsandbytes is not installed, and the weights are to be quantised.
    """
    base = _base_of(checkpoint)
    if base == checkpoint or (quantisation is None and precision != "bf16"):
        return load_policy(checkpoint)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with quiet_libraries():
        frozen = _load_frozen(base, AutoModelForCausalLM, quantisation, precision)
        model = PeftModel.from_pretrained(frozen, checkpoint)
    return _with_tokenizer(checkpoint, model)


def _with_tokenizer(path: Path, model: Any) -> Policy:
    from transformers import AutoTokenizer

    _switch_off_dropout(model)
    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(path)
    stop_ids = stop_token_ids(_root_of(path), tokenizer)
    device = default_device()
    return Policy(model.to(device), tokenizer, stop_ids, device)


def _switch_off_dropout(model: Any) -> None:
    """A sampler has none, so with it the ratio to the sampler is not 1; and its draws have no seed of their own."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _base_of(path: Path) -> Path:
    if not (path / ADAPTER_CONFIG).is_file():
        return path
    from peft import PeftConfig

    return Path(PeftConfig.from_pretrained(path).base_model_name_or_path)


def _root_of(path: Path) -> Path:
    """The full checkpoint under an adapter, and under the adapters under it."""
    base = _base_of(path)
    return path if base == path else _root_of(base)


def _load_merged(path: Path, auto: Any) -> Any:
    base = _base_of(path)
    if base != path:
        from peft import PeftModel

        model = PeftModel.from_pretrained(_load_merged(base, auto), path).merge_and_unload()
    elif (path / "config.json").is_file():
        model = auto.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    else:
        raise RecipeError(f"model.path: {path} holds no config.json: give the folder of a checkpoint")
    # peft saves this name as the base of an adapter: one put on merged weights must not name the bare base under them.
    model.name_or_path = str(path)
    return model


def _load_frozen(path: Path, auto: Any, quantisation: str | None, precision: str | None) -> Any:
    """The weights that an adapter is to be put on."""
    device, merged = default_device(), quantisation is None or _base_of(path) != path
    model = _load_merged(path, auto) if merged else load_quantised(auto, path, precision=precision, device=device)
    if quantisation is not None and merged:
        model = quantise(model, precision=precision, device=device)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # not the buffers: positions are computed from one
            parameter.data = parameter.data.to(frozen_dtype(precision))
    model.name_or_path = str(path)
    return model


def with_lora(model: Any, lora: LoraSection, seed: int) -> Any:
    """The model with a new adapter on all linear layers but the output head, its weights drawn from `seed`."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("lora", seed))
        return get_peft_model(model, config)

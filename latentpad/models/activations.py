"""Activation checkpointing: layers compute their activations again in the backward pass and keep none till then."""

from __future__ import annotations

from typing import Any

from latentpad.recipe.errors import RecipeError


def checkpoint_activations(model: Any) -> None:
    """Switch it on for each layer of a model of transformers, or of peft's around one (Chen et al. 2016).

    It is at work in training mode alone (`model.train()`): sampling in evaluation mode keeps its cache. Gradients are
    the same.

    Raises:
        RecipeError: the architecture does not support it.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    # The name in newer releases of transformers, where the other one warns.
    switch = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    try:
        switch({"use_reentrant": False})
    except ValueError as error:
        kind = getattr(base.config, "model_type", type(base).__name__)
        raise RecipeError(f"training.activation_checkpointing: {kind!r} does not support it; leave it out") from error
    # Only the reentrant kind needs embeddings that require gradients, which transformers asks for along with it.
    base.disable_input_require_grads()

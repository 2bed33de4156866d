"""Activation checkpointing changes what is kept between the passes, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.models.activations import checkpoint_activations
from latentpad.models.policy import Policy, with_lora
from latentpad.recipe.errors import RecipeError
from latentpad.training.forward import forward, response_logprobs
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.types import Batch

SIZES = tiny.SIZES.model_copy(update={"layers": 4, "hidden_size": 32, "intermediate_size": 64})


def made(lora: bool) -> Policy:
    policy = tiny.policy(sizes=SIZES)
    if not lora:
        return policy
    return Policy(with_lora(policy.model, tiny.LORA, 0), policy.tokenizer, policy.stop_ids, policy.device)


def batch_of(policy: Policy) -> Batch:
    rollouts = [tiny.rollout(policy, "12+34", "123456"), tiny.rollout(policy, "1+2", "3")]
    return tiny.collate(rollouts, [1.0] * 2, [1.0] * 2)


def step(policy: Policy) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients, and how many bytes of activations were kept for the backward pass."""
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []  # so that no address is used twice
    weights = {parameter.data_ptr() for parameter in policy.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    policy.model.train()
    batch = batch_of(policy)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = response_logprobs(policy.model, batch)[batch.response_mask].sum()
    total.backward()
    return tiny.gradients(policy), sum(kept.values())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_gradients_are_the_same_and_less_is_kept(lora: bool) -> None:
    policy = made(lora)
    expected, before = step(policy)
    checkpoint_activations(policy.model)
    found, after = step(policy)
    assert found.keys() == policy.trainable().keys()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert 0 < after < 0.4 * before


def test_every_layer_is_computed_twice_in_training_and_once_otherwise() -> None:
    policy = made(lora=False)
    checkpoint_activations(policy.model)
    calls: list[bool] = []
    for layer in policy.model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(True))
    step(policy)
    assert len(calls) == 2 * SIZES.layers
    calls.clear()
    policy.model.eval()
    forward(policy.model, batch_of(policy)).logprobs.sum().backward()
    assert len(calls) == SIZES.layers


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_sampling_keeps_its_cache_and_its_tokens(lora: bool, capfd: pytest.CaptureFixture[str]) -> None:
    policy = made(lora)
    expected = tiny.sampled(policy, 6)
    checkpoint_activations(policy.model)
    policy.model.train()
    widths: list[int] = []
    embeddings = policy.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    assert tiny.sampled(policy, 6) == expected
    assert len(widths) > 2
    assert set(widths[1:]) == {1}
    assert capfd.readouterr() == ("", "")


def test_embeddings_are_left_as_they_are() -> None:
    """Under an adapter they are frozen: nothing is computed for the sake of a gradient of theirs."""
    policy = made(lora=True)
    checkpoint_activations(policy.model)
    embeddings = policy.model.get_input_embeddings()
    assert not embeddings(torch.tensor([[4, 5]])).requires_grad


def test_an_adapter_on_a_saved_model_is_checkpointed_too(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path, touched=True)
    expected, before = step(policy)
    checkpoint_activations(policy.model)
    found, after = step(policy)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert 0 < after < before


def test_an_architecture_without_it_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_multiple_size": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("gpt_neox_japanese", vocab_size=20, num_hidden_layers=1, pad_token_id=0, **sizes)
    with pytest.raises(RecipeError, match=r"^training\.activation_checkpointing: 'gpt_neox_japanese' does not support"):
        checkpoint_activations(AutoModelForCausalLM.from_config(config))

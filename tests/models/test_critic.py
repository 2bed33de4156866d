"""What values are read from: a head that says 0 at first, on a trunk that shares no weight with the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from latentpad.models.critic import ValueHead, critic_trunk, value_head
from latentpad.recipe.schema import LoraSection
from latentpad.training.forward import response_hidden
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy


def made(folder: Path, kind: str) -> Policy:
    return {
        "full": tiny.policy,
        "lora": lambda: tiny.lora_policy(folder),
        "lora touched": lambda: tiny.lora_policy(folder, touched=True),
    }[kind]()


@torch.no_grad()
def hidden(policy: Policy, trunk: torch.nn.Module) -> torch.Tensor:
    rollouts = [tiny.rollout(policy, "1+2", "30"), tiny.rollout(policy, "12+34", "4")]
    return response_hidden(trunk, tiny.collate(rollouts, [0.0] * 2, [1.0] * 2))


def test_a_head_says_0_until_it_is_trained() -> None:
    head, states = ValueHead(16), torch.randn(3, 5, 16)
    values = head(states)
    assert values.tolist() == [[0.0] * 5] * 3
    values.sum().backward()
    # d value / d weight is the state, d value / d bias is 1, summed over 3 x 5 of them
    assert head.linear.bias.grad.tolist() == [15.0]
    torch.testing.assert_close(head.linear.weight.grad[0], states.sum((0, 1)))


@pytest.mark.parametrize(
    ("trunk", "head"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_a_head_is_never_less_precise_than_float32(trunk: torch.dtype, head: torch.dtype) -> None:
    policy = tiny.policy()
    policy.model.to(trunk)
    found = value_head(policy)
    assert found.linear.weight.dtype is head
    assert found(torch.zeros(1, 2, 16, dtype=trunk)).dtype is head


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_trunk_starts_as_a_copy_of_the_policy(tmp_path: Path, kind: str, rank: int) -> None:
    policy = made(tmp_path, kind)
    trunk = critic_trunk(policy, lora=lora(rank), seed=0)
    assert torch.equal(hidden(policy, trunk), hidden(policy, policy.model))


def lora(rank: int) -> LoraSection | None:
    return LoraSection(rank=rank, alpha=4.0) if rank else None


@pytest.mark.parametrize("kind", ["full", "lora", "lora touched"])
@pytest.mark.parametrize("rank", [0, 2])
def test_trunk_and_policy_share_no_weight(tmp_path: Path, kind: str, rank: int) -> None:
    policy = made(tmp_path, kind)
    trunk = critic_trunk(policy, lora=lora(rank), seed=0)
    assert not {p.data_ptr() for p in trunk.parameters()} & {p.data_ptr() for p in policy.model.parameters()}
    before, own = hidden(policy, policy.model), hidden(policy, trunk)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.1)
    assert torch.equal(hidden(policy, policy.model), before)
    moved = hidden(policy, trunk)
    assert not torch.equal(moved, own)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1)
    assert torch.equal(hidden(policy, trunk), moved)


def test_the_policys_adapter_is_left_out_of_the_trunk_and_stays_in_the_policy(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path, touched=True)
    before = policy.trainable_hash()
    trunk = critic_trunk(policy, lora=None, seed=0)
    assert not [name for name, _ in trunk.named_parameters() if "lora" in name]
    assert policy.uses_lora
    assert policy.trainable_hash() == before
    with policy.model.disable_adapter():
        assert torch.equal(hidden(policy, trunk), hidden(policy, policy.model))
    assert not torch.equal(hidden(policy, trunk), hidden(policy, policy.model))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_with_a_rank_the_critic_trains_an_adapter_of_its_own_and_nothing_else(tmp_path: Path, kind: str) -> None:
    policy = made(tmp_path, kind)

    def trained(seed: int) -> dict[str, torch.Tensor]:
        trunk = critic_trunk(policy, lora=lora(2), seed=seed)
        return {name: p for name, p in trunk.named_parameters() if p.requires_grad}

    first, again, other = trained(0), trained(0), trained(1)
    assert first
    assert all("lora_" in name for name in first)
    assert {min(p.shape) for p in first.values()} == {2}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("tied", [False, True])
def test_a_critic_trains_all_but_a_matrix_that_only_predicts_tokens(tied: bool) -> None:
    policy = tiny.policy()
    if tied:
        policy.model.config.tie_word_embeddings = True
        policy.model.lm_head.weight = policy.model.get_input_embeddings().weight
    trunk = critic_trunk(policy, lora=None, seed=0)
    idle = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    assert idle == (set() if tied else {"lm_head.weight"})
    assert policy.model.get_output_embeddings().weight.requires_grad


def test_a_new_trunk_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path)
    before = torch.get_rng_state()
    critic_trunk(policy, lora=lora(2), seed=3)
    assert torch.equal(torch.get_rng_state(), before)

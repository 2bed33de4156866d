"""An adapter in vLLM is the one that was sent last, it is applied, and nothing else ever takes its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")

from latentpad.models.policy import Policy
from latentpad.rollout import Sampling
from latentpad.rollout.local import score
from latentpad.rollout.probe import Probe
from latentpad.rollout.synced import SyncedEngine
from latentpad.rollout.vllm import VLLMSampler
from latentpad.rollout.weights import SyncError, Weights, flatten
from tests import tiny
from tests.vllm.policies import CLOSE, MEMORY, furthest, lora_policy, move, sequences

PLAIN = Sampling(1.0, 8)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return lora_policy(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def running(start: Policy) -> Iterator[VLLMSampler]:
    sampler = VLLMSampler(start, memory_bytes=MEMORY)
    yield sampler
    sampler.close()


@pytest.fixture
def policy(start: Policy) -> Iterator[Policy]:
    """Back as it was after every test."""
    before = {name: weight.detach().clone() for name, weight in start.trainable().items()}
    yield start
    with torch.no_grad():
        for name, weight in start.trainable().items():
            weight.copy_(before[name])


def weights_of(policy: Policy, version: int = 1) -> Weights:
    return flatten(policy, version, policy.trainable_hash())


@pytest.fixture
def sampler(running: VLLMSampler, policy: Policy) -> VLLMSampler:
    """It holds the policy's adapter."""
    running.load(weights_of(policy))
    return running


def test_it_starts_with_the_policys_own_adapter(start: Policy, running: VLLMSampler) -> None:
    asked = sequences(start, 40)
    assert furthest(running.score(asked), score(start, asked)) < CLOSE


def test_an_adapter_moves_the_logprobs_as_in_peft(sampler: VLLMSampler, policy: Policy) -> None:
    asked = sequences(policy, 40)
    with policy.model.disable_adapter():
        base = score(policy, asked)
    found = sampler.score(asked)
    assert furthest(found, score(policy, asked)) < CLOSE
    assert furthest(found, base) > 0.1


def test_an_adapter_that_does_nothing_leaves_the_base(sampler: VLLMSampler, policy: Policy) -> None:
    asked = sequences(policy, 40)
    with policy.model.disable_adapter():
        base = score(policy, asked)
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            if "lora_B" in name:
                weight.zero_()
    sampler.load(weights_of(policy, 2))
    assert furthest(sampler.score(asked), base) < CLOSE


def test_every_version_replaces_the_one_before(sampler: VLLMSampler, policy: Policy) -> None:
    asked = sequences(policy, 40)
    before = score(policy, asked)
    for version in (2, 3, 4):
        move(policy, seed=version)
        now = score(policy, asked)
        assert furthest(now, before) > 0.1
        assert sampler.load(weights_of(policy, version)) == policy.trainable_hash()
        assert furthest(sampler.score(asked), now) < CLOSE
        before = now


def test_an_older_version_can_be_loaded_again(sampler: VLLMSampler, policy: Policy) -> None:
    asked, old = sequences(policy, 40), weights_of(policy)
    expected = score(policy, asked)
    move(policy, seed=9)
    sampler.load(weights_of(policy, 2))
    assert sampler.load(old) == old.hash
    assert furthest(sampler.score(asked), expected) < CLOSE


def test_what_is_loaded_is_kept_apart_from_the_policy(sampler: VLLMSampler, policy: Policy) -> None:
    asked = sequences(policy, 40)
    expected = score(policy, asked)
    move(policy, seed=5)
    assert furthest(sampler.score(asked), expected) < CLOSE


def test_the_prefix_cache_is_not_stale_after_a_load(sampler: VLLMSampler, policy: Policy) -> None:
    prompts, greedy = sequences(policy, 300), Sampling(0.0, 8)
    for version in (1, 2):
        sampler.load(weights_of(policy, version))
        sampler.sample(prompts, range(4), greedy)
        found = sampler.sample(prompts, range(4), greedy)
        whole = score(policy, [p + ids for p, ids in zip(prompts, found.token_ids, strict=True)])
        assert furthest([list(row) for row in found.logprobs], [row[299:] for row in whole]) < CLOSE
        move(policy, seed=version)


def test_only_the_loaded_adapter_stays_on_disk(sampler: VLLMSampler, policy: Policy) -> None:
    for version in (2, 3):
        sampler.load(weights_of(policy, version))
    [folder] = Path(sampler._folder).iterdir()
    assert f"version-3-{policy.trainable_hash()[:12]}" in folder.name


def renamed(weights: Weights) -> Weights:
    first, *rest = weights.entries
    return replace(weights, entries=(replace(first, name=first.name.replace("layers.0", "layers.7")), *rest))


def halved(weights: Weights) -> Weights:
    return replace(weights, entries=weights.entries[: len(weights.entries) // 2])


def truncated(weights: Weights) -> Weights:
    return replace(weights, buffer=weights.buffer[:-16])


def of_another_rank(weights: Weights) -> Weights:
    return replace(weights, entries=tuple(replace(e, shape=e.shape[::-1]) for e in weights.entries))


def with_a_flipped_bit(weights: Weights) -> Weights:
    buffer = weights.buffer.copy()
    buffer[3] ^= 1
    return replace(weights, buffer=buffer)


@pytest.mark.parametrize("spoil", [renamed, halved, truncated, of_another_rank, with_a_flipped_bit])
def test_spoiled_weights_are_refused_and_the_old_ones_stay(
    sampler: VLLMSampler, policy: Policy, spoil: Callable[[Weights], Weights]
) -> None:
    asked = sequences(policy, 40)
    expected = score(policy, asked)
    move(policy, seed=3)
    with pytest.raises(SyncError, match="version 2"):
        sampler.load(spoil(weights_of(policy, 2)))
    assert furthest(sampler.score(asked), expected) < CLOSE


def test_an_adapter_that_vllm_refuses_is_told_in_one_line_and_the_old_one_stays(
    sampler: VLLMSampler, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sequences(policy, 40)
    expected = score(policy, asked)
    move(policy, seed=3)
    # as a broken disk would
    monkeypatch.setattr("safetensors.torch.save_file", lambda saved, path: path.write_bytes(b"\0" * 64))
    with pytest.raises(SyncError, match="vLLM did not take the weights of version 2: ") as caught:
        sampler.load(weights_of(policy, 2))
    assert "\n" not in str(caught.value)
    assert furthest(sampler.score(asked), expected) < CLOSE


class Stuck:
    """Says that it has loaded, and has not: what vLLM does with a known number."""

    def __init__(self, sampler: VLLMSampler) -> None:
        self.load = lambda weights: weights.hash
        self.sample, self.score, self.close = sampler.sample, sampler.score, sampler.close


def test_the_probe_tells_an_adapter_that_never_arrived(sampler: VLLMSampler, policy: Policy) -> None:
    probe = Probe(policy, sequences(policy, 24))
    good = SyncedEngine(policy, sampler, chunk_size=8, probe=probe)
    good.sync(1, policy.trainable_hash())
    move(policy, seed=4, scale=0.02)
    with pytest.raises(SyncError, match="vllm"):
        SyncedEngine(policy, Stuck(sampler), chunk_size=8, probe=probe).sync(2, policy.trainable_hash())
    good.sync(2, policy.trainable_hash())


def test_rollouts_of_a_synced_engine_carry_the_new_policys_logprobs(sampler: VLLMSampler, policy: Policy) -> None:
    engine = SyncedEngine(policy, sampler, chunk_size=8)
    move(policy, seed=6)
    engine.sync(5, hashed := policy.trainable_hash())
    found = engine.generate(tiny.requests(policy, 20), PLAIN)
    assert {(r.policy_version, r.adapter_hash) for r in found} == {(5, hashed)}
    whole = score(policy, [r.prompt.token_ids + r.token_ids for r in found])
    expected = [row[len(r.prompt.token_ids) - 1 :] for r, row in zip(found, whole, strict=True)]
    assert furthest([list(r.logprobs) for r in found], expected) < CLOSE

"""What is sent arrives to the bit, or is refused; and a sampler that lies about its weights is found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latentpad.models.policy import Policy
from latentpad.rollout.local import LocalSampler, score
from latentpad.rollout.probe import Probe, probe_sequences
from latentpad.rollout.weights import SyncError, Weights, flatten, held, put_in
from tests import tiny


@pytest.fixture(params=["full", "lora"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Policy, Policy]:
    """The trainer's policy, and a worker's whose trained weights are others."""
    if request.param == "full":
        return tiny.policy(1), tiny.policy(0)
    return tiny.lora_policy(tmp_path, touched=True), tiny.lora_policy(tmp_path)


def weights_of(policy: Policy, version: int = 3) -> Weights:
    return flatten(policy, version, policy.trainable_hash())


def test_what_is_sent_arrives_to_the_bit(pair: tuple[Policy, Policy]) -> None:
    trainer, worker = pair
    assert worker.trainable_hash() != trainer.trainable_hash()
    base = worker.base_hash()
    put_in(weights_of(trainer), worker)
    assert worker.trainable_hash() == trainer.trainable_hash()
    assert worker.base_hash() == base


def test_a_read_only_buffer_will_do(pair: tuple[Policy, Policy]) -> None:
    trainer, worker = pair
    weights = weights_of(trainer)
    weights.buffer.setflags(write=False)
    assert LocalSampler(worker).load(weights) == trainer.trainable_hash()
    before = weights.buffer.copy()
    with torch.no_grad():
        next(iter(worker.trainable().values())).add_(1)
    assert np.array_equal(weights.buffer, before)


def test_bfloat16_and_odd_sizes_arrive_too() -> None:
    trainer, worker = tiny.policy(1), tiny.policy(0)
    for policy in (trainer, worker):
        policy.model.lm_head.bias = torch.nn.Parameter(torch.full((3,), float(policy is trainer), dtype=torch.bfloat16))
    put_in(weights_of(trainer), worker)
    assert worker.trainable_hash() == trainer.trainable_hash()
    assert worker.model.lm_head.bias.dtype is torch.bfloat16


@pytest.mark.parametrize("byte", [0, 1001, -1])
def test_a_changed_byte_is_refused_and_nothing_is_written(pair: tuple[Policy, Policy], byte: int) -> None:
    trainer, worker = pair
    weights, before = weights_of(trainer), worker.trainable_hash()
    weights.buffer[byte] ^= 1
    with pytest.raises(SyncError, match="bytes with SHA-256"):
        put_in(weights, worker)
    assert worker.trainable_hash() == before


def test_half_an_adapter_other_names_and_other_shapes_are_refused(tmp_path: Path) -> None:
    trainer, worker = tiny.lora_policy(tmp_path, touched=True), tiny.lora_policy(tmp_path)
    weights, before = weights_of(trainer), worker.trainable_hash()
    first = weights.entries[0]
    half = tuple(entry for entry in weights.entries if "lora_A" in entry.name)
    named = (replace(first, name=first.name.replace("base_model.", "")), *weights.entries[1:])
    shaped = (replace(first, shape=first.shape[::-1]), *weights.entries[1:])
    for entries, said in (
        (half, "are missing, first base_model"),
        (named, "unknown to it"),
        (shaped, "where the model"),
    ):
        with pytest.raises(SyncError, match=said):
            put_in(replace(weights, entries=entries), worker)
    assert worker.trainable_hash() == before


def test_weights_are_held_for_a_block_and_put_back_to_the_bit_also_after_an_error(pair: tuple[Policy, Policy]) -> None:
    trainer, worker = pair
    weights, before = weights_of(trainer), worker.trainable_hash()
    with held(weights, worker):
        assert worker.trainable_hash() == trainer.trainable_hash()
    assert worker.trainable_hash() == before
    with pytest.raises(ZeroDivisionError), held(weights, worker):
        _ = 1 / 0
    assert worker.trainable_hash() == before


def probe_of(policy: Policy) -> Probe:
    prompts = [r.prompt.token_ids for r in tiny.requests(policy, 8)]
    return Probe(policy, probe_sequences(prompts, len(policy.tokenizer)))


def test_scores_are_the_models_own_logprobs() -> None:
    policy = tiny.policy(double=True)
    [sequence] = probe_sequences([(5, 3, 7)], len(policy.tokenizer), count=1)
    with torch.no_grad():
        logits = policy.model(torch.tensor([sequence])).logits[0].float()
    expected = [float(logits[i].log_softmax(-1)[token]) for i, token in enumerate(sequence[1:])]
    assert score(policy, [sequence]) == [pytest.approx(expected, abs=1e-6)]
    assert len(sequence) == 3 + 16


def test_the_same_weights_pass_the_probe_exactly(pair: tuple[Policy, Policy]) -> None:
    trainer, worker = pair
    probe, sampler = probe_of(trainer), LocalSampler(worker)
    sampler.load(weights_of(trainer))
    probe.advance(3, trainer.trainable_hash())
    assert probe.check(3, trainer.trainable_hash(), sampler.score(probe.sequences), "worker") == 0.0


def test_other_weights_under_the_right_name_are_found_out(pair: tuple[Policy, Policy]) -> None:
    trainer, worker = pair
    probe = probe_of(trainer)
    probe.advance(3, trainer.trainable_hash())
    with pytest.raises(SyncError, match="worker 1: its policy is not the trainer's at version 3"):
        probe.check(3, trainer.trainable_hash(), score(worker, probe.sequences), "worker 1")


def test_a_stale_adapter_is_found_out_however_small_the_step(tmp_path: Path) -> None:
    trainer = tiny.lora_policy(tmp_path, touched=True)
    probe = probe_of(trainer)
    probe.advance(3, "old")
    stale = score(trainer, probe.sequences)
    with torch.no_grad():
        for weight in trainer.trainable().values():
            weight.add_(1e-5)
    probe.advance(4, "new")
    fresh = score(trainer, probe.sequences)
    largest = max(abs(a - b) for old, new in zip(stale, fresh, strict=True) for a, b in zip(old, new, strict=True))
    assert 0 < largest < 1e-3  # within the tolerance
    assert probe.check(4, "new", fresh, "worker") == 0
    with pytest.raises(SyncError, match="says that it samples from version 4, and its logprobs are those of version 3"):
        probe.check(4, "new", stale, "worker")


def test_nan_never_passes() -> None:
    policy = tiny.policy()
    probe = probe_of(policy)
    probe.advance(0, "x")
    found = score(policy, probe.sequences)
    found[0][3] = float("nan")
    with pytest.raises(SyncError):
        probe.check(0, "x", found, "worker")


def test_only_the_newest_versions_are_remembered() -> None:
    policy = tiny.policy()
    probe = probe_of(policy)
    for version in range(20):
        probe.advance(version, str(version), keep=3)
    assert [v for v in range(20) if probe.knows(v, str(v))] == [17, 18, 19]

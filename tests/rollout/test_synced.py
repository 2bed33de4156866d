"""The engine over a sampler with weights of its own keeps the contract, whatever the sampler: here the local one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from latentpad.models.policy import Policy
from latentpad.rollout import Sampling
from latentpad.rollout.local import LocalSampler
from latentpad.rollout.probe import Probe
from latentpad.rollout.synced import SyncedEngine
from latentpad.rollout.weights import SyncError
from tests import tiny
from tests.rollout.contract import EngineContract, MakeEngine


def sampler_of(policy: Policy) -> LocalSampler:
    return LocalSampler(replace(policy, model=copy.deepcopy(policy.model)))


class TestSyncedEngine(EngineContract):
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        def make(policy: Policy) -> SyncedEngine:
            return SyncedEngine(policy, sampler_of(policy), chunk_size=16)

        return make


def test_it_samples_from_what_was_synced_not_from_what_the_trainer_holds_now() -> None:
    policy = tiny.policy()
    engine = SyncedEngine(policy, sampler_of(policy), chunk_size=4)
    asked, greedy = tiny.requests(policy, 6), Sampling(0.0, 8)
    before = engine.generate(asked, greedy)
    policy.model.get_output_embeddings().weight.data.neg_()
    assert engine.generate(asked, greedy) == before
    engine.sync(1, policy.trainable_hash())
    assert [r.token_ids for r in engine.generate(asked, greedy)] != [r.token_ids for r in before]


def test_another_hash_than_the_one_sent_is_an_error() -> None:
    policy = tiny.policy()
    with pytest.raises(SyncError, match="version 3"):
        SyncedEngine(policy, sampler_of(policy), chunk_size=4).sync(3, "0" * 64)


def test_the_probe_is_asked_after_every_sync() -> None:
    policy = tiny.policy()
    sampler = sampler_of(policy)
    engine = SyncedEngine(policy, sampler, chunk_size=4, who="it", probe=Probe(policy, [(2, 3, 4, 5)]))
    engine.sync(1, policy.trainable_hash())
    sampler.score = lambda sequences: [[0.0, 0.0, 0.0]]  # type: ignore[method-assign]
    with pytest.raises(SyncError, match=r"^it: "):
        engine.sync(2, policy.trainable_hash())


def test_each_chunk_is_told_when_it_is_done() -> None:
    policy, told = tiny.policy(), []
    engine = SyncedEngine(policy, sampler_of(policy), chunk_size=4)
    engine.generate(tiny.requests(policy, 10), Sampling(1.0, 4), told.append)
    assert told == [4, 4, 2]

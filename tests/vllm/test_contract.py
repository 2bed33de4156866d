"""vLLM keeps the contract of every rollout engine, with full weights and with an adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("vllm")

from latentpad.models.policy import Policy
from latentpad.rollout.synced import SyncedEngine
from latentpad.rollout.vllm import VLLMSampler
from latentpad.rollout.weights import flatten
from tests.rollout.contract import EngineContract, MakeEngine
from tests.vllm.policies import CLOSE, MEMORY, StoppingAt, full_policy, lora_policy


@pytest.fixture(scope="module", params=["llama", "gpt2", "lora"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    if request.param == "lora":
        return lora_policy(tmp_path_factory.mktemp("base"))
    return full_policy(request.param)


@pytest.fixture(scope="module")
def sampler(policy: Policy) -> Iterator[VLLMSampler]:
    made = VLLMSampler(policy, memory_bytes=MEMORY)
    yield made
    made.close()


class TestVLLMEngine(EngineContract):
    tolerance = CLOSE

    @pytest.fixture
    def make_engine(self, sampler: VLLMSampler) -> MakeEngine:
        def make(policy: Policy) -> SyncedEngine:
            sampler.load(flatten(policy, 0, policy.trainable_hash()))  # a test before may have left others
            return SyncedEngine(policy, StoppingAt(sampler, policy), chunk_size=64)

        return make

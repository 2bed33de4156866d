"""Full fine-tuning, requests as they come, and the engine's life: what does not depend on an adapter."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm")

from latentpad.models.policy import Policy
from latentpad.recipe.errors import RecipeError
from latentpad.rollout import Sampling
from latentpad.rollout.local import score
from latentpad.rollout.vllm import VLLMSampler
from latentpad.rollout.weights import SyncError, flatten
from tests import tiny
from tests.vllm.policies import CLOSE, MEMORY, StoppingAt, full_policy, furthest, move, sequences

PLAIN = Sampling(1.0, 12)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """With a layer without positions (NoPE), which vLLM runs through the code of transformers."""
    return full_policy("smollm3", nope_layers=[1])


@pytest.fixture(scope="module")
def sampler(policy: Policy) -> Iterator[VLLMSampler]:
    made = VLLMSampler(policy, memory_bytes=MEMORY)
    yield made
    made.close()


def prompts_of(policy: Policy, count: int) -> list[tuple[int, ...]]:
    return [request.prompt.token_ids for request in tiny.requests(policy, count)]


def test_new_full_weights_replace_the_old_ones(sampler: VLLMSampler, policy: Policy) -> None:
    asked = sequences(policy, 40)
    before = score(policy, asked)
    assert furthest(sampler.score(asked), before) < CLOSE
    for version in (1, 2):
        move(policy, seed=version, scale=0.02)
        now = score(policy, asked)
        assert furthest(now, before) > 0.1
        assert sampler.load(flatten(policy, version, "name")) == "name"
        assert furthest(sampler.score(asked), now) < CLOSE
        assert list(Path(sampler._folder).iterdir()) == []
        before = now


def test_the_prefix_cache_is_not_stale_after_full_weights(sampler: VLLMSampler, policy: Policy) -> None:
    prompts, greedy = sequences(policy, 300), Sampling(0.0, 8)
    for version in (1, 2):
        sampler.load(flatten(policy, version, ""))
        found = sampler.sample(prompts, range(4), greedy)
        whole = score(policy, [p + ids for p, ids in zip(prompts, found.token_ids, strict=True)])
        assert furthest([list(row) for row in found.logprobs], [row[299:] for row in whole]) < CLOSE
        move(policy, seed=version, scale=0.02)
    sampler.load(flatten(policy, 3, ""))


def test_a_truncated_buffer_is_refused(sampler: VLLMSampler, policy: Policy) -> None:
    weights = flatten(policy, 4, "")
    with pytest.raises(SyncError, match="version 4"):
        sampler.load(replace(weights, buffer=weights.buffer[:-16]))


def test_the_same_batch_is_the_same_to_the_bit_whenever_it_is_asked(sampler: VLLMSampler, policy: Policy) -> None:
    prompts = prompts_of(policy, 48)
    first = sampler.sample(prompts, range(48), PLAIN)
    assert all(sampler.sample(prompts, range(48), PLAIN) == first for _ in range(8))


def test_a_response_depends_on_its_own_seed(sampler: VLLMSampler, policy: Policy) -> None:
    prompts = prompts_of(policy, 24)
    together = sampler.sample(prompts, range(24), PLAIN)
    alone = [sampler.sample([prompts[i]], [i], PLAIN).token_ids[0] for i in range(24)]
    assert sum(a == b for a, b in zip(alone, together.token_ids, strict=True)) >= 23  # last bits may differ
    assert sampler.sample(prompts, range(100, 124), PLAIN).token_ids != together.token_ids


def test_seeds_have_63_bits(sampler: VLLMSampler, policy: Policy) -> None:
    prompts, seeds = prompts_of(policy, 8)[:1] * 8, [2**63 - 1 - i for i in range(8)]
    found = sampler.sample(prompts, seeds, PLAIN)
    assert len(set(found.token_ids)) > 5
    assert sampler.sample(prompts, seeds, PLAIN) == found


def test_the_models_own_end_of_sequence_stops_nothing_unless_it_is_a_stop_token(
    sampler: VLLMSampler, policy: Policy
) -> None:
    end = policy.tokenizer.eos_token_id
    assert policy.model.config.eos_token_id == end
    found = StoppingAt(sampler, replace(policy, stop_ids=(5,))).sample(prompts_of(policy, 60), range(60), PLAIN)
    assert any(end in ids[:-1] for ids in found.token_ids)
    for ids, stopped in zip(found.token_ids, found.stopped, strict=True):
        assert 5 not in ids[:-1]
        assert stopped == (ids[-1] == 5)
        assert stopped or len(ids) == PLAIN.max_new_tokens


def test_what_does_not_fit_is_refused_before_vllm_cuts_it_short(sampler: VLLMSampler, policy: Policy) -> None:
    [prompt] = sequences(policy, 316, 1)
    assert len(sampler.sample([prompt], [0], Sampling(1.0, 4, policy.stop_ids)).token_ids[0]) == 4
    with pytest.raises(RecipeError, match="321 tokens do not fit into its 320 positions"):
        sampler.sample([prompt], [0], Sampling(1.0, 5))
    with pytest.raises(RecipeError, match="321 tokens"):
        sampler.score([prompt + prompt[:4]])


def test_a_temperature_that_vllm_would_raise_silently_is_refused(sampler: VLLMSampler, policy: Policy) -> None:
    with pytest.raises(RecipeError, match=r"0\.001"):
        sampler.sample(prompts_of(policy, 1), [0], Sampling(0.001, 4))


def test_nothing_asked_nothing_done(sampler: VLLMSampler) -> None:
    assert sampler.sample([], [], PLAIN).token_ids == []
    assert sampler.score([]) == []
    assert sampler.score([(1,)]) == [[]]


def test_an_interrupt_from_the_keyboard_does_not_reach_the_engine(sampler: VLLMSampler, policy: Policy) -> None:
    prompts = prompts_of(policy, 4)
    before = sampler.sample(prompts, range(4), PLAIN)
    engines = [p for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())]
    assert len(engines) >= 2
    for process in engines:
        os.kill(process.pid, signal.SIGINT)
    assert sampler.sample(prompts, range(4), PLAIN) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_no_port_is_open_to_other_machines(sampler: VLLMSampler) -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}

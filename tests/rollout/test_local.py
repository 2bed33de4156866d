"""The local engine keeps the contract; and its rollouts depend on their seeds, not on who shares the batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from latentpad.models.policy import Policy
from latentpad.rollout import Request, Sampling
from latentpad.rollout.local import LocalEngine, choose, uniforms
from latentpad.types import FinishReason, Rollout
from tests import tiny
from tests.rollout.contract import EngineContract, MakeEngine

SAMPLING = Sampling(1.0, 14)


class TestLocalEngine(EngineContract):
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        return lambda policy: LocalEngine(policy, chunk_size=16)


def in_batches(policy: Policy, requests: list[Request], chunk_size: int) -> list[Rollout]:
    return LocalEngine(policy, chunk_size=chunk_size).generate(requests, SAMPLING)


@pytest.fixture(scope="module")
def double() -> Policy:
    """Ends responses often, so that rows leave the batch at every step."""
    return replace(tiny.policy(double=True), stop_ids=(1, 7))


def test_rollouts_do_not_depend_on_batch_mates_order_or_chunks(double: Policy) -> None:
    requests = tiny.requests(double, 240)
    together = in_batches(double, requests, 240)
    lengths = [len(r.token_ids) for r in together]
    assert set(range(1, 15)) <= set(lengths)
    assert {r.finish_reason for r in together} == set(FinishReason)

    alone = [in_batches(double, [request], 1)[0] for request in requests]
    reversed_order = in_batches(double, requests[::-1], 240)[::-1]
    chunked = in_batches(double, requests, 32)
    for other in (alone, reversed_order, chunked):
        assert [r.token_ids for r in other] == [r.token_ids for r in together]
        assert [r.finish_reason for r in other] == [r.finish_reason for r in together]


def test_in_float32_the_batch_changes_only_the_last_bits_of_a_logprob() -> None:
    policy = tiny.policy()
    requests = tiny.requests(policy, 120)
    largest, same = 0.0, 0
    for first, second in pairwise([in_batches(policy, requests, size) for size in (120, 17, 1)]):
        for a, b in zip(first, second, strict=True):
            if a.token_ids == b.token_ids:
                same += 1
                largest = max(largest, *(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)))
    assert same >= 238
    assert largest < 1e-4


def test_padded_prompts_decode_greedily_as_transformers_generates_them() -> None:
    policy = tiny.policy()
    requests = tiny.requests(policy, 6)
    policy.tokenizer.padding_side = "left"
    padded = policy.tokenizer([r.prompt.text for r in requests], return_tensors="pt", padding=True)
    assert (padded.attention_mask == 0).any()
    out = policy.model.generate(
        padded.input_ids, attention_mask=padded.attention_mask, do_sample=False, max_new_tokens=14, pad_token_id=0
    )[:, padded.input_ids.shape[1] :].tolist()
    found = LocalEngine(policy, chunk_size=6).generate(requests, Sampling(0.0, 14))
    assert [list(r.token_ids) for r in found] == [row[: len(r.token_ids)] for row, r in zip(out, found, strict=True)]
    for row, rollout in zip(out, found, strict=True):
        assert not any(row[len(rollout.token_ids) :])


def test_sampling_leaves_the_model_in_the_mode_that_it_was_in() -> None:
    policy = tiny.policy()
    for mode in (True, False):
        policy.model.train(mode)
        in_batches(policy, tiny.requests(policy, 2), 2)
        assert policy.model.training is mode


def test_each_chunk_is_told_when_it_is_done() -> None:
    policy = tiny.policy()
    told: list[int] = []
    LocalEngine(policy, chunk_size=4).generate(tiny.requests(policy, 10), SAMPLING, told.append)
    assert told == [4, 4, 2]


def test_uniforms_depend_on_the_seed_alone_and_a_longer_row_starts_the_same() -> None:
    long, short = uniforms([3, 2**62], 100), uniforms([2**62, 5, 3], 7)
    assert torch.equal(short[2], long[0, :7])
    assert torch.equal(short[0], long[1, :7])
    assert long.dtype == torch.float64
    assert 0 <= float(long.min()) < float(long.max()) < 1
    assert not torch.equal(long[0], long[1])


@pytest.mark.parametrize(
    ("uniform", "token"),
    # probabilities 0, 0.2, 0.3, 0.5: a boundary belongs to the token above it, and a token of probability 0 is skipped
    [(0.0, 1), (0.19, 1), (0.21, 2), (0.49, 2), (0.51, 3), (1 - 2**-53, 3)],
)
def test_a_uniform_is_inverted_through_the_cumulative_distribution(uniform: float, token: int) -> None:
    logits = torch.tensor([[0.0, 0.2, 0.3, 0.5]], dtype=torch.float64).log()
    chosen, logprob = choose(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(1.0, 1))
    assert chosen.tolist() == [token]
    assert logprob.exp().tolist() == pytest.approx([[0.0, 0.2, 0.3, 0.5][token]])


def test_temperature_and_forbidden_tokens_shape_the_distribution() -> None:
    # squares of 0.1, 0.2, 0.3, 0.4 without the last: 1/14, 4/14, 9/14
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    found = {}
    for uniform in (0.0, 0.2, 0.9):
        token, logprob = choose(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(0.5, 1, (3,)))
        found[token.item()] = logprob.exp().item()
    assert found == pytest.approx({0: 1 / 14, 1: 4 / 14, 2: 9 / 14})


def test_greedy_takes_the_likeliest_allowed_token_at_temperature_1() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    token, logprob = choose(logits, torch.tensor([0.99], dtype=torch.float64), Sampling(0.0, 1, (3,)))
    assert token.tolist() == [2]
    assert logprob.exp().tolist() == pytest.approx([0.5])

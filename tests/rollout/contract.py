"""The one contract of every rollout engine: subclass it in a test file and bring a fixture `make_engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from latentpad.algorithms.grpo import GRPO
from latentpad.models.policy import Policy
from latentpad.rollout import Request, RolloutEngine, Sampling
from latentpad.training.forward import response_logprobs
from latentpad.training.learner import Learner
from latentpad.types import FinishReason, Rollout
from tests import tiny

MakeEngine = Callable[[Policy], RolloutEngine]
PLAIN = Sampling(1.0, 8)


def logprobs_of(policy: Policy, rollouts: Sequence[Rollout], sampling: Sampling) -> list[list[float]]:
    """The policy's own logprobs of what was sampled, one forward pass for all."""
    batch = tiny.collate(rollouts, [0.0] * len(rollouts), [1.0] * len(rollouts))
    options: dict[str, Any] = {"temperature": sampling.temperature or 1.0, "forbidden_ids": sampling.forbidden_ids}
    with torch.no_grad():
        found = response_logprobs(policy.model, batch.to(policy.device), **options).tolist()
    return [row[: len(r.token_ids)] for row, r in zip(found, rollouts, strict=True)]


def next_token(policy: Policy, request: Request, sampling: Sampling) -> np.ndarray[Any, Any]:
    """The policy's probabilities of the first response token."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([request.prompt.token_ids], device=policy.device)).logits[0, -1].double()
    logits[list(sampling.forbidden_ids)] = -torch.inf
    return (logits / sampling.temperature).softmax(-1).cpu().numpy()


class EngineContract:
    """What every engine promises; `make_engine(policy)` builds the one under test."""

    tolerance = 1e-5  # of a logprob, in nats, where the engine computes with kernels of its own

    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        raise NotImplementedError

    def test_one_rollout_a_request_in_order_and_prompt_ids_come_back(
        self, make_engine: MakeEngine, policy: Policy
    ) -> None:
        asked = tiny.requests(policy, 7)
        found = make_engine(policy).generate(asked, PLAIN)
        assert [r.prompt for r in found] == [r.prompt for r in asked]
        assert [r.seed for r in found] == [r.seed for r in asked]
        assert all(len(r.token_ids) == len(r.logprobs) for r in found)

    def test_nothing_asked_nothing_sampled(self, make_engine: MakeEngine, policy: Policy) -> None:
        assert make_engine(policy).generate([], PLAIN) == []

    def test_version_and_hash_are_those_of_the_last_sync(self, make_engine: MakeEngine, policy: Policy) -> None:
        engine = make_engine(policy)
        first = next(iter(policy.trainable().values()))
        kept, names = first.detach().clone(), []
        for version in (7, 8):
            names.append(policy.trainable_hash())
            engine.sync(version, names[-1])
            [rollout] = engine.generate(tiny.requests(policy, 1), PLAIN)
            assert (rollout.policy_version, rollout.adapter_hash) == (version, names[-1])
            with torch.no_grad():
                first.add_(0.01)
        with torch.no_grad():
            first.copy_(kept)
        assert names[0] != names[1]

    def test_the_same_seeds_give_the_same_rollouts(self, make_engine: MakeEngine, policy: Policy) -> None:
        asked = tiny.requests(policy, 6)
        assert make_engine(policy).generate(asked, PLAIN) == make_engine(policy).generate(asked, PLAIN)

    def test_different_seeds_give_different_rollouts(self, make_engine: MakeEngine, policy: Policy) -> None:
        prompt = tiny.prompt(policy, "12+34")
        found = make_engine(policy).generate([Request(prompt, seed) for seed in range(20)], PLAIN)
        assert len({r.token_ids for r in found}) > 15

    @pytest.mark.parametrize("sampling", [PLAIN, Sampling(0.6, 8), Sampling(1.0, 8, (2, 3)), Sampling(0.0, 8)])
    def test_logprobs_are_the_policys_own(self, make_engine: MakeEngine, policy: Policy, sampling: Sampling) -> None:
        found = make_engine(policy).generate(tiny.requests(policy, 12), sampling)
        for rollout, expected in zip(found, logprobs_of(policy, found, sampling), strict=True):
            assert rollout.logprobs == pytest.approx(expected, abs=self.tolerance)

    def test_every_stop_token_ends_a_response_and_stays_in_it(self, make_engine: MakeEngine, policy: Policy) -> None:
        stops = (1, 5, 9, 11)
        found = make_engine(replace(policy, stop_ids=stops)).generate(tiny.requests(policy, 60), PLAIN)
        ended = {r.token_ids[-1] for r in found if r.finish_reason is FinishReason.STOP}
        assert ended == set(stops)
        for rollout in found:
            assert not set(stops) & set(rollout.token_ids[:-1])
            assert (rollout.token_ids[-1] in stops) == (rollout.finish_reason is FinishReason.STOP)

    def test_a_response_without_a_stop_token_is_cut_at_the_limit(self, make_engine: MakeEngine, policy: Policy) -> None:
        found = make_engine(policy).generate(tiny.requests(policy, 30), Sampling(1.0, 5))
        cut = [r for r in found if r.finish_reason is FinishReason.LENGTH]
        assert cut
        assert {len(r.token_ids) for r in cut} == {5}
        assert all(policy.stop_ids[0] not in r.token_ids for r in cut)

    def test_a_stop_token_at_the_limit_is_a_stop(self, make_engine: MakeEngine, policy: Policy) -> None:
        found = make_engine(policy).generate(tiny.requests(policy, 60), Sampling(1.0, 1))
        assert {r.finish_reason for r in found} == set(FinishReason)
        for rollout in found:
            assert (rollout.token_ids == policy.stop_ids) == (rollout.finish_reason is FinishReason.STOP)

    def test_where_pad_is_the_stop_token_it_is_kept_and_trained_on(
        self, make_engine: MakeEngine, policy: Policy
    ) -> None:
        stop = policy.stop_ids[0]
        policy.tokenizer.pad_token = policy.tokenizer.eos_token
        try:
            assert policy.tokenizer.pad_token_id == stop
            found = make_engine(policy).generate(tiny.requests(policy, 30), PLAIN)
        finally:
            policy.tokenizer.pad_token = "<pad>"
        stopped = [r for r in found if r.finish_reason is FinishReason.STOP]
        assert stopped
        assert all(r.token_ids[-1] == stop for r in stopped)
        batch = tiny.collate(stopped, [1.0] * len(stopped), [1.0] * len(stopped))
        assert batch.response_mask.sum(-1).tolist() == [len(r.token_ids) for r in stopped]

    def test_an_empty_response_can_be_learned_from(self, make_engine: MakeEngine, policy: Policy) -> None:
        stop = policy.stop_ids[0]
        everything_else = tuple(i for i in range(len(policy.tokenizer)) if i != stop)
        sampling = Sampling(1.0, 5, everything_else[1:])
        found = make_engine(policy).generate(tiny.requests(policy, 40), sampling)
        [empty, *_] = [r for r in found if r.token_ids == (stop,)]
        assert empty.finish_reason is FinishReason.STOP
        learner = Learner(policy, GRPO(), tiny.optimizer(policy), 1.0, sampling.forbidden_ids)
        assert learner.accumulate([tiny.collate([empty], [1.0], [1.0])])["ratio"] == pytest.approx(
            1, abs=self.tolerance
        )
        assert any(float(gradient.abs().max()) > 0 for gradient in tiny.gradients(policy).values())

    def test_greedy_decoding_is_that_of_transformers(self, make_engine: MakeEngine, policy: Policy) -> None:
        asked, sampling = tiny.requests(policy, 6), Sampling(0.0, 10)
        expected = []
        for request in asked:
            ids = torch.tensor([request.prompt.token_ids], device=policy.device)
            out = policy.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10, pad_token_id=0
            )
            expected.append(tuple(out[0, ids.shape[1] :].tolist()))
        engine = make_engine(policy)
        assert [r.token_ids for r in engine.generate(asked, sampling)] == expected
        assert [engine.generate([request], sampling)[0].token_ids for request in asked] == expected

    def test_forbidden_tokens_are_never_sampled(self, make_engine: MakeEngine, policy: Policy) -> None:
        asked = tiny.requests(policy, 60)
        forbidden = (2, 3, len(policy.tokenizer) - 1)
        engine = make_engine(policy)
        assert set(forbidden) & {t for r in engine.generate(asked, PLAIN) for t in r.token_ids}
        for temperature in (1.0, 0.0):
            found = engine.generate(asked, Sampling(temperature, 8, forbidden))
            assert not set(forbidden) & {t for r in found for t in r.token_ids}

    @pytest.mark.parametrize("sampling", [Sampling(1.0, 1), Sampling(0.5, 1), Sampling(1.0, 1, (2, 3, 19))])
    def test_tokens_are_drawn_from_the_softmax(
        self, make_engine: MakeEngine, policy: Policy, sampling: Sampling
    ) -> None:
        count = 4000
        prompt = tiny.prompt(policy, "12+34")
        found = make_engine(policy).generate([Request(prompt, seed) for seed in range(count)], sampling)
        expected = next_token(policy, found[0], sampling) * count
        counts = np.bincount([r.token_ids[0] for r in found], minlength=len(expected))
        allowed = expected > 0
        assert allowed.sum() == len(expected) - len(sampling.forbidden_ids)
        assert counts[~allowed].sum() == 0
        assert expected[allowed].min() > 1
        assert chisquare(counts[allowed], expected[allowed]).pvalue > 0.01

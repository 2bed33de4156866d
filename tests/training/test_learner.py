"""The learner's gradient depends on what was sampled and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import ALGORITHMS, Critic, Needs, build_algorithm, token_weights
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.ppo import PPO
from latentpad.models.policy import Policy
from latentpad.models.reference import Reference
from latentpad.recipe.errors import Diverged
from latentpad.recipe.schema import Component, TrainingSection
from latentpad.rollout import Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.training.collate import Rows, cut_by_tokens
from latentpad.training.critic import CriticLearner
from latentpad.training.forward import response_logprobs
from latentpad.training.learner import Learner
from latentpad.training.rows import observe
from latentpad.types import Batch, FinishReason, TokenLoss
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.types import Rollout

ROLLOUTS = 12
ADVANTAGES = [(-1) ** i * (0.3 + 0.1 * i) for i in range(ROLLOUTS)]
TRAINING = TrainingSection(steps=10, learning_rate=0.01, checkpoint_every=5)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A float64 policy; the tests that share it take no step."""
    return tiny.policy(double=True)


@pytest.fixture(scope="module")
def rollouts(policy: Policy) -> list[Rollout]:
    """Of many lengths, stopped and cut, with ratios that are clipped here and there."""
    found = tiny.off_policy(tiny.sampled(policy, ROLLOUTS, max_new_tokens=16, forbidden_ids=(0,)), spread=0.4)
    assert {r.finish_reason for r in found} == set(FinishReason)
    assert len({len(r.token_ids) for r in found}) > 4
    return found


def learner(policy: Policy, algorithm: Any = None, **options: Any) -> Learner:
    return Learner(policy, algorithm or GRPO(), tiny.optimizer(policy), options.pop("temperature", 1.0), **options)


def gradient(
    made: Learner, batches: Sequence[Batch], kl_coef: float = 0.0
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    metrics = made.accumulate(batches, kl_coef)
    found = tiny.gradients(made.policy)
    if made.critic is not None:
        for name, p in made.critic.head.named_parameters():
            assert p.grad is not None
            found[f"head.{name}"], p.grad = p.grad, None
    return metrics, found


def one_batch(rollouts: Sequence[Rollout], advantages: Sequence[float] | None = None) -> Batch:
    weights = token_weights("token", [len(r.token_ids) for r in rollouts], 16)
    with tiny.double():
        return tiny.collate(rollouts, advantages or [1.0] * len(rollouts), weights)


def per_token(rollouts: Sequence[Rollout], extra: int = 0, shift: float = 0.0) -> list[torch.Tensor]:
    """Numbers around 0, one a token and `extra` more, that differ from token to token."""
    return [torch.arange(len(r.token_ids) + extra).double().sin() - shift for r in rollouts]


def columns(rollouts: Sequence[Rollout]) -> dict[str, list[torch.Tensor]]:
    """A reference, old values and returns for each token."""
    return {
        "reference_logprobs": per_token(rollouts, shift=2.0),
        "values": per_token(rollouts, 1),
        "returns": per_token(rollouts, shift=0.5),
    }


@pytest.mark.parametrize("whole_loss", [False, True])
@pytest.mark.parametrize(
    "algorithm",
    [
        *({"name": name} for name in ALGORITHMS if name != "cispo"),
        {"name": "cispo", "clip_high": 0.2},
        {"name": "grpo", "aggregation": "constant"},
    ],
    ids=str,
)
def test_the_gradient_does_not_depend_on_the_split(
    policy: Policy, rollouts: list[Rollout], algorithm: dict[str, Any], whole_loss: bool
) -> None:
    """Of every algorithm alone, and with a KL term, an entropy bonus and a value head on the trunk."""
    built = build_algorithm(Component(**algorithm))
    critic = CriticLearner(policy, PPO(critic=Critic(kind="head")), TRAINING, seed=0) if whole_loss else None
    made = learner(policy, built, entropy_coef=0.1 if whole_loss else 0.0, critic=critic)
    weights = token_weights(built.needs.aggregation, [len(r.token_ids) for r in rollouts], 16)
    rows = Rows(rollouts, ADVANTAGES, weights, **(columns(rollouts) if whole_loss else {}))
    splits = {}
    for budget in (1, 30, 60, 120, 10_000):
        with tiny.double():
            parts = rows.batches(budget)
        assert sum(len(part.token_ids) for part in parts) == ROLLOUTS
        splits[len(parts)] = gradient(made, parts, kl_coef=0.1 if whole_loss else 0.0)
    assert sorted(splits)[0] == 1
    assert sorted(splits)[-1] == ROLLOUTS
    assert len(splits) >= 4
    metrics, whole = splits.pop(1)
    assert 0 < metrics["clip_fraction"] <= 1
    assert ("kl" in metrics, "policy_entropy" in metrics, "value_loss" in metrics) == (whole_loss,) * 3
    for other_metrics, other in splits.values():
        assert other_metrics == pytest.approx(metrics, rel=1e-12, abs=1e-12)
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, rtol=1e-11, atol=1e-14)


def test_leaving_out_rollouts_without_advantage_changes_no_gradient(policy: Policy, rollouts: list[Rollout]) -> None:
    made = learner(policy)
    advantages = [0.0 if i in (2, 3, 7) else a for i, a in enumerate(ADVANTAGES)]
    weights = token_weights("token", [len(r.token_ids) for r in rollouts], 16)
    live = [i for i, a in enumerate(advantages) if a]
    with tiny.double():
        whole = tiny.collate(rollouts, advantages, weights)
        part = tiny.collate(*([values[i] for i in live] for values in (rollouts, advantages, weights)))
    expected, found = gradient(made, [whole])[1], gradient(made, [part])[1]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("poison", [1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_at_padding_change_nothing(
    policy: Policy, rollouts: list[Rollout], algorithm: str, poison: float
) -> None:
    critic = CriticLearner(policy, PPO(critic=Critic(kind="head")), TRAINING, seed=0)
    built = build_algorithm(Component(name=algorithm))
    made = learner(policy, built, forbidden_ids=(0,), entropy_coef=0.1, critic=critic)
    weights = token_weights("token", [len(r.token_ids) for r in rollouts], 16)
    with tiny.double():
        clean = tiny.collate(rollouts, ADVANTAGES, weights, **columns(rollouts))
    assert clean.reference_logprobs is not None and clean.values is not None and clean.returns is not None  # noqa: PT018
    padding = ~clean.response_mask
    beyond = torch.arange(padding.shape[1] + 1) > clean.response_mask.sum(1, keepdim=True)
    assert padding.any()
    pad_tokens = clean.attention_mask == 0
    other_tokens = torch.arange(pad_tokens.sum()) % len(policy.tokenizer)
    poisoned = replace(
        clean,
        rollout_logprobs=clean.rollout_logprobs.masked_fill(padding, poison),
        advantages=clean.advantages.masked_fill(padding, poison),
        reference_logprobs=clean.reference_logprobs.masked_fill(padding, poison),
        values=clean.values.masked_fill(beyond, poison),
        returns=clean.returns.masked_fill(padding, poison),
        token_ids=clean.token_ids.masked_scatter(pad_tokens, other_tokens),
    )
    metrics, expected = gradient(made, [clean], 0.1)
    poisoned_metrics, found = gradient(made, [poisoned], 0.1)
    assert poisoned_metrics == metrics
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@dataclass(frozen=True)
class LogprobsOnly:
    """A loss that is the token's -logprob, to see which tokens are trained on."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def token_loss(self, *, logprobs: torch.Tensor, **_: object) -> TokenLoss:
        logprobs.retain_grad()
        self.seen.append(logprobs)
        return TokenLoss(-logprobs, {})

    @property
    def seen(self) -> list[torch.Tensor]:
        return _SEEN


_SEEN: list[torch.Tensor] = []


def test_the_sampled_stop_token_is_trained_and_a_cut_response_gets_none(policy: Policy) -> None:
    stopped, cut = tiny.rollout(policy, "1+2", "30"), tiny.rollout(policy, "1+2", "3012", stop=False)
    _SEEN.clear()
    learner(policy, LogprobsOnly()).accumulate([one_batch([stopped, cut])])
    tiny.gradients(policy)
    [seen] = _SEEN
    assert seen.grad is not None
    # 7 tokens in all: 3, 0, stop; and 3, 0, 1, 2 with nothing after them
    expected = [[-1 / 7, -1 / 7, -1 / 7, 0.0], [-1 / 7] * 4]
    assert seen.grad.tolist() == [pytest.approx(row) for row in expected]
    batch = one_batch([stopped, cut])
    assert batch.token_ids[0, -4:].tolist() == [*policy.tokenizer.encode("30"), policy.stop_ids[0], 0]
    assert policy.stop_ids[0] not in batch.token_ids[1, -4:].tolist()


def test_a_response_that_is_only_the_stop_token_is_trained(policy: Policy) -> None:
    empty = tiny.rollout(policy, "1+2", "")
    assert len(empty.token_ids) == 1
    metrics, found = gradient(learner(policy), [one_batch([empty])])
    assert metrics["ratio"] > 0
    assert any(value.abs().max() > 0 for value in found.values())


def test_metrics_are_means_over_response_tokens_of_all_batches(policy: Policy) -> None:
    # Ratios are e^(logprob + 2), averaged over 2 + 4 tokens however they are cut
    short, long = tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "345")
    with torch.no_grad():
        batch = one_batch([short, long])
        ratios = (response_logprobs(policy.model, batch) + 2).exp()[batch.response_mask]
    parts = [one_batch([short]), one_batch([long])]
    assert gradient(learner(policy), parts)[0]["ratio"] == pytest.approx(float(ratios.sum()) / 6)


@pytest.mark.parametrize("lora", [False, True])
def test_a_step_raises_what_was_good_and_lowers_what_was_bad(tmp_path: Path, lora: bool) -> None:
    policy = tiny.lora_policy(tmp_path, touched=True) if lora else tiny.policy()
    good, bad = tiny.sampled(policy, 2)
    batch = one_batch([good, bad], [1.0, -1.0])

    def totals() -> list[float]:
        with torch.no_grad():
            return response_logprobs(policy.model, batch).sum(-1).tolist()

    before = totals()
    made = Learner(policy, GRPO(), tiny.optimizer(policy, learning_rate=1e-3), temperature=1.0)
    made.step([batch], 0)
    after = totals()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_without_a_batch_no_step_is_taken() -> None:
    policy = tiny.policy()
    before = policy.trainable_hash()
    assert learner(policy).step([], 0)["grad_norm"] == 0.0
    assert policy.trainable_hash() == before


def test_with_lora_the_base_stays_what_it_was_to_the_bit(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path)
    trained = set(policy.trainable())
    assert trained
    assert all("lora_" in name for name in trained)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    made = learner(policy)
    for step in range(3):
        made.step([one_batch(tiny.sampled(policy, 4), [1.0, -1.0, 0.5, -0.5])], step)
    changed = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_the_first_step_the_ratio_is_1_and_kl_is_0(tmp_path: Path, lora: bool, temperature: float) -> None:
    policy = tiny.lora_policy(tmp_path) if lora else tiny.policy()
    policy.model.double()
    made = learner(policy, temperature=temperature)
    rollouts = tiny.sampled(policy, 6, temperature=temperature)
    found = observe(rollouts, made, reference=Reference.of(policy), critic=None, budget=40)
    weights = [1 / sum(len(r.token_ids) for r in rollouts)] * 6
    batch = tiny.collate(rollouts, [1.0] * 6, weights, reference_logprobs=found.reference_logprobs)
    metrics = made.accumulate([batch], 0.1)
    # the sampler keeps its logprobs in float32
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["ratio_low"] == pytest.approx(1, abs=1e-5)
    assert metrics["ratio_high"] == pytest.approx(1, abs=1e-5)
    assert metrics["effective_samples"] == pytest.approx(1, abs=1e-9)
    assert metrics["sampler_kl"] == pytest.approx(0, abs=1e-10)
    assert metrics["kl"] == pytest.approx(0, abs=1e-12)
    made.optimizer.step(0)
    assert made.accumulate([batch])["kl"] > 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("forbidden", [(), (2, 3), (1, 2, 3, 19)])
@pytest.mark.parametrize("lora", [False, True])
def test_sampler_and_learner_agree_on_logprobs(
    tmp_path: Path, lora: bool, forbidden: tuple[int, ...], temperature: float
) -> None:
    policy = tiny.lora_policy(tmp_path, touched=True) if lora else tiny.policy()
    sampling = Sampling(temperature, 12, forbidden)
    rollouts = LocalEngine(policy, chunk_size=5).generate(tiny.requests(policy, 16), sampling)
    batch = tiny.collate(rollouts, [0.0] * 16, [1.0] * 16)
    with torch.no_grad():
        ours = response_logprobs(policy.model, batch, temperature=temperature, forbidden_ids=forbidden)
    torch.testing.assert_close(ours, batch.rollout_logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_no_weight(value: float) -> None:
    policy = tiny.policy()
    made = learner(policy)
    batch = one_batch(tiny.sampled(policy, 2))
    made.step([batch], 0)
    before = policy.trainable_hash()
    broken = replace(batch, advantages=torch.where(batch.response_mask, value, 0.0))
    with pytest.raises(Diverged, match=r"at step 2; no weight was changed by this step; a lower training\.learn"):
        made.step([broken], 1)
    assert policy.trainable_hash() == before


def test_parts_are_cut_by_padded_tokens() -> None:
    assert cut_by_tokens([3, 3, 3, 4], budget=8) == [[0, 1], [2, 3]]
    assert cut_by_tokens([9, 20], budget=8) == [[0], [1]]
    assert cut_by_tokens([], budget=8) == []


def test_positions_start_at_the_first_prompt_token(policy: Policy) -> None:
    batch = one_batch([tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "12+34", "46")])
    assert batch.position_ids.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1, 1, 1, 0], [1] * 9]

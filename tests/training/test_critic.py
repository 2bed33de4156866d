"""Values are of the state before each token; what trains them moves the policy exactly as far as it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import Critic
from latentpad.algorithms.ppo import PPO
from latentpad.recipe.errors import Diverged
from latentpad.recipe.schema import TrainingSection
from latentpad.training.collate import Rows
from latentpad.training.critic import CriticLearner
from latentpad.training.learner import Learner
from latentpad.training.rows import value_metrics
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.types import Rollout

KINDS = [{"kind": "head"}, {"kind": "model"}, {"kind": "model", "lora_rank": 2}]


def critic(policy: Policy, *, training: dict[str, Any] | None = None, **options: Any) -> CriticLearner:
    section = TrainingSection(**{"steps": 10, "learning_rate": 0.01, "checkpoint_every": 5} | (training or {}))
    return CriticLearner(policy, PPO(critic=Critic(**options), value_clip=None), section, seed=0)


def speaking(made: CriticLearner) -> CriticLearner:
    """With a head that no longer says 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return made


def rows(rollouts: list[Rollout], returns: list[float], made: CriticLearner | None = None) -> Rows:
    """Every token of rollout b is to be worth `returns[b]`; values are those of `made`, else 0."""
    lengths = [len(r.token_ids) for r in rollouts]
    weights = [1 / sum(lengths)] * len(rollouts)
    values = [torch.zeros(n + 1) for n in lengths]
    if made is not None:
        found = made.estimate(tiny.collate(rollouts, [0.0] * len(rollouts), weights))
        values = [found[i, : n + 1] for i, n in enumerate(lengths)]
    wanted = [torch.full((n,), value) for n, value in zip(lengths, returns, strict=True)]
    return Rows(rollouts, [0.0] * len(rollouts), weights, values=values, returns=wanted)


def estimate(made: CriticLearner, *rollouts: Rollout) -> torch.Tensor:
    return made.estimate(tiny.collate(rollouts, [0.0] * len(rollouts), [1.0] * len(rollouts)))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_value_sees_the_tokens_before_it_and_none_from_it_on(options: dict[str, Any]) -> None:
    policy = tiny.policy(double=True)
    made = speaking(critic(policy, **options))
    for place in range(4):
        text = "3012"
        other = text[:place] + "9" + text[place + 1 :]
        before, after = estimate(made, tiny.rollout(policy, "1+2", text), tiny.rollout(policy, "1+2", other))
        assert before.shape == (6,)  # 4 characters and the stop token, and the state after it
        # the state before token `place` is column `place`; the tokens differ in that one alone
        torch.testing.assert_close(after[: place + 1], before[: place + 1], rtol=0, atol=1e-12)
        assert ((after - before)[place + 1 :].abs() > 1e-6).all()


def test_the_last_column_is_of_the_state_after_the_stop_token() -> None:
    policy = tiny.policy(double=True)
    made = speaking(critic(policy, kind="head"))
    stopped, cut = tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "33", stop=False)
    values = estimate(made, stopped, cut)
    assert values.shape == (2, 3)
    torch.testing.assert_close(values[0, :2], values[1, :2], rtol=0, atol=1e-12)
    assert (values[0, 2] - values[1, 2]).abs() > 1e-6


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_values_are_0_at_first_and_do_not_depend_on_the_batch_around_them(options: dict[str, Any]) -> None:
    policy = tiny.policy(double=True)
    made = critic(policy, **options)
    short, long = tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "123+4", "127")
    assert not estimate(made, short, long).any()
    speaking(made)
    together = estimate(made, short, long)
    torch.testing.assert_close(together[0, :3], estimate(made, short)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(together[1], estimate(made, long)[0], rtol=0, atol=1e-12)


def test_a_cut_head_gives_the_trunk_no_gradient_and_any_other_in_proportion() -> None:
    """Powers of two scale floating-point numbers exactly."""
    policy = tiny.policy()
    found = {}
    for coef in (0.0, 0.5, 1.0):
        made = speaking(critic(policy, kind="head", loss_coef=coef))
        learner = Learner(policy, PPO(), tiny.optimizer(policy), 1.0, critic=made)
        rollouts = [tiny.rollout(policy, "1+2", "30"), tiny.rollout(policy, "9+9", "18")]
        learner.accumulate([rows(rollouts, [1.0, 0.0]).collate()])  # advantages 0: no gradient of the policy's own
        head = [p.grad.clone() for p in made.head.parameters() if p.grad is not None]
        found[coef] = (tiny.gradients(policy), head)
    assert not any(g.any() for g in found[0.0][0].values())
    assert any(g.any() for g in found[1.0][0].values())
    for name, gradient in found[1.0][0].items():
        assert torch.equal(found[0.5][0][name] * 2, gradient), name
    for coef in (0.0, 0.5):
        assert len(found[coef][1]) == 2
        assert all(torch.equal(a, b) for a, b in zip(found[coef][1], found[1.0][1], strict=True))
        assert all(g.any() for g in found[coef][1])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_step_of_the_critic_moves_no_bit_of_the_policy(tmp_path: Path, lora: bool, options: dict[str, Any]) -> None:
    policy = tiny.lora_policy(tmp_path, touched=True) if lora else tiny.policy()
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    made = critic(policy, **options)
    rollouts = [tiny.rollout(policy, "1+2", "30"), tiny.rollout(policy, "9+9", "18")]
    for step in range(3):
        metrics = made.step(rows(rollouts, [1.0, 0.0]).batches(60), step)
        assert metrics["value_loss"] > 0
        assert metrics["critic_grad_norm"] > 0
    assert estimate(made, *rollouts).any()
    for name, p in policy.model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
    assert all(p.grad is None for p in made.trainable().values())


@pytest.mark.parametrize("options", KINDS[1:], ids=str)
def test_a_step_of_the_policy_moves_no_value_of_a_model_of_its_own(tmp_path: Path, options: dict[str, Any]) -> None:
    policy = tiny.lora_policy(tmp_path)
    made = speaking(critic(policy, **options))
    rollouts = tiny.sampled(policy, 4)
    before = estimate(made, *rollouts)
    hash_before = policy.trainable_hash()
    learner = Learner(policy, PPO(), tiny.optimizer(policy), 1.0)
    learner.step([tiny.collate(rollouts, [1.0, -1.0, 0.5, -0.5], [0.1] * 4)], 0)
    assert policy.trainable_hash() != hash_before
    assert torch.equal(estimate(made, *rollouts), before)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_reward_that_the_prompt_decides_is_soon_foreseen(options: dict[str, Any]) -> None:
    policy = tiny.policy()
    made = critic(policy, training={"steps": 100}, learning_rate=0.05, **options)
    rollouts = [tiny.rollout(policy, question, text) for question in ("1+2", "9+9") for text in ("3", "18")]
    wanted = [1.0] * 2 + [0.0] * 2
    assert value_metrics(rows(rollouts, wanted, made))["explained_variance"] == 0
    losses = [made.step(rows(rollouts, wanted).batches(400), step)["value_loss"] for step in range(25)]
    assert value_metrics(rows(rollouts, wanted, made))["explained_variance"] > 0.8
    # half of 1^2 at half of the tokens
    assert losses[0] == pytest.approx(0.25)
    assert losses[-1] < 0.05


def test_the_loss_is_half_the_squared_error_weighted_by_token() -> None:
    # values 0; 2 tokens worth 1 and 3 tokens worth 3, each counting 1/5: (2 * 1/2 + 3 * 9/2) / 5 = 14.5 / 5
    policy = tiny.policy()
    rollouts = [tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "30")]
    for budget in (1, 1000):
        made = critic(policy, kind="model")
        assert made.accumulate(rows(rollouts, [1.0, 3.0]).batches(budget))["value_loss"] == pytest.approx(2.9)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_taken_up_from_its_state_a_critic_goes_on_to_the_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    policy = tiny.policy()
    rollouts = [tiny.rollout(policy, "1+2", "30"), tiny.rollout(policy, "9+9", "18")]
    batches = rows(rollouts, [1.0, 0.0]).batches(60)
    made, other = critic(policy, **options), critic(policy, **options)
    made.step(batches, 0)
    file = tmp_path / "state.pt"
    torch.save(made.state(), file)
    before = estimate(made, *rollouts)
    made.step(batches, 1)
    assert not torch.equal(estimate(made, *rollouts), before)
    other.load(torch.load(file, weights_only=True))
    assert torch.equal(estimate(other, *rollouts), before)
    other.step(batches, 1)
    assert torch.equal(estimate(other, *rollouts), estimate(made, *rollouts))


def test_its_learning_rate_is_its_own_on_the_runs_schedule() -> None:
    # AdamW's first step moves every weight by its learning rate: .01, times (0 + 1) / (3 + 1) of the warm-up, times 1/2
    policy = tiny.policy()
    made = critic(policy, training={"warmup_steps": 3, "learning_rate": 7.0}, kind="head", learning_rate=0.01)
    made.step_scale = 0.5
    made.step(rows([tiny.rollout(policy, "1+2", "30")], [1.0]).batches(60), 0)
    assert float(made.head.linear.bias.detach()) == pytest.approx(0.00125, rel=1e-4)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    policy = tiny.policy()
    made = critic(policy, kind="model")
    rollouts = [tiny.rollout(policy, "1+2", "30")]
    made.step(rows(rollouts, [1.0]).batches(60), 0)
    before = estimate(made, *rollouts)
    with pytest.raises(Diverged, match="gradient norm is nan at step 2; no weight was changed"):
        made.step(rows(rollouts, [float("nan")]).batches(60), 1)
    assert torch.equal(estimate(made, *rollouts), before)
    assert all(p.grad is None for p in made.trainable().values())


def test_after_a_value_that_is_not_finite_the_policy_keeps_no_gradient_of_it() -> None:
    """Or the first step after a roll back would add it to its own."""
    policy = tiny.policy()
    made = critic(policy, kind="head")
    learner = Learner(policy, PPO(), tiny.optimizer(policy), 1.0, critic=made)
    batch = rows([tiny.rollout(policy, "1+2", "30")], [1.0]).collate()
    assert batch.returns is not None
    before = policy.trainable_hash()
    with pytest.raises(Diverged):
        learner.step([replace(batch, returns=batch.returns * float("nan"))], 0)
    assert policy.trainable_hash() == before
    assert learner.step([batch], 0)["grad_norm"] < 1e9

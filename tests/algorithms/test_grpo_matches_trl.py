"""The oracle: TRL's `GRPOTrainer` on the same batch gives the same loss, the same gradient, the same advantages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import token_weights
from latentpad.algorithms.grpo import GRPO
from latentpad.models.policy import Policy, load_policy
from latentpad.models.reference import Reference
from latentpad.training.collate import Rows
from latentpad.training.forward import response_logprobs
from latentpad.training.learner import Learner
from latentpad.training.rows import observe
from tests import tiny
from tests.algorithms.trl_oracle import LIMIT, trainer

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.types import Batch, Rollout


# Two groups with a signal around one of equal rewards, whose advantages are 0. Responses of 1 to 6 tokens, one cut.
ADVANTAGES = [1.0, -1.0, 0.0, 0.0, 0.8, -0.6]
SAME = [("sequence", "grpo"), ("token", "bnpo"), ("token", "dapo"), ("constant", "dr_grpo")]


def start(folder: Path, questions: tuple[str, str, str]) -> tuple[Policy, list[Rollout]]:
    """A float64 policy and rollouts whose ratios lie around 1, some beyond the clipping range on both sides."""
    tiny.policy().save(folder)
    policy = load_policy(folder)
    policy.model.double()
    first, second, third = questions
    written = [
        tiny.rollout(policy, first, "3"),
        tiny.rollout(policy, first, "13579"),
        tiny.rollout(policy, second, "9"),
        tiny.rollout(policy, second, ""),
        tiny.rollout(policy, third, "15"),
        tiny.rollout(policy, third, "123456", stop=False),
    ]
    with torch.no_grad():
        exact = response_logprobs(policy.model, tiny.collate(written, ADVANTAGES, ADVANTAGES))
    near = [replace(r, logprobs=tuple(exact[i, : len(r.token_ids)].tolist())) for i, r in enumerate(written)]
    return policy, tiny.off_policy(near, spread=0.6)


def inputs(batch: Batch, reference: torch.Tensor | None) -> dict[str, Any]:
    """Our batch with TRL's names."""
    width = batch.response_mask.shape[1]
    return {
        "prompt_ids": batch.token_ids[:, :-width],
        "prompt_mask": batch.attention_mask[:, :-width],
        "completion_ids": batch.token_ids[:, -width:],
        "completion_mask": batch.response_mask.long(),
        "advantages": batch.advantages[:, 0],
        "old_per_token_logps": batch.rollout_logprobs,
        "ref_per_token_logps": reference,
        "num_items_in_batch": batch.response_mask.sum(),
    }


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 0.01
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=tolerance, atol=tolerance * largest)


# TRL's fused output head computes in float32, and TRL counts positions from the left padding on, which a rotary model
# does not see but for its float32 angles. All else here is float64.
@pytest.mark.parametrize(("questions", "tolerance"), [(("1+2", "5+4", "7+8"), 1e-6), (("1+2", "55+44", "123+4"), 3e-6)])
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
@pytest.mark.parametrize(("aggregation", "loss_type"), SAME)
def test_loss_and_gradient_equal_trl_and_dead_groups_add_nothing(
    tmp_path: Path, aggregation: str, loss_type: str, kl_coef: float, questions: tuple[str, str, str], tolerance: float
) -> None:
    policy, rollouts = start(tmp_path, questions)
    algorithm = GRPO(clip_low=0.1, clip_high=0.3, aggregation=aggregation)
    weights = token_weights(aggregation, [len(r.token_ids) for r in rollouts], LIMIT)
    learner = Learner(policy, algorithm, tiny.optimizer(policy), temperature=1.0)
    reference = Reference.of(policy) if kl_coef else None
    with torch.no_grad():  # now the policy differs from the reference
        for weight in policy.trainable().values():
            weight.mul_(1.05)
    found = observe(rollouts, learner, reference=reference, critic=None, budget=1000).reference_logprobs
    rows = Rows(rollouts, ADVANTAGES, weights, found)
    with tiny.double():
        batch = rows.collate()

    metrics = learner.accumulate([batch], kl_coef)
    ours = tiny.gradients(policy)
    assert 0.1 < metrics["clip_fraction"] < 0.9
    assert ("kl" in metrics) == (kl_coef > 0)

    # TRL's default multiplies KL by the ratio (DeepSeek-V3.2); ours is k3, as GRPO was published.
    theirs = trainer(
        "GRPO",
        tmp_path,
        policy.model,
        loss_type=loss_type,
        beta=kl_coef,
        epsilon=0.1,
        epsilon_high=0.3,
        use_bias_correction_kl=False,
    )
    loss = theirs._compute_loss(theirs.model, inputs(batch, batch.reference_logprobs))
    loss.backward()
    expected = tiny.gradients(policy)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=tolerance)
    assert_same(ours, expected, tolerance)

    if kl_coef == 0:  # the way of `make_rows`: weights from all rollouts, then the dead group is left out
        live = [i for i, advantage in enumerate(ADVANTAGES) if advantage]
        with tiny.double():
            parts = rows.take(live).batches(24)
        assert len(parts) > 1
        assert learner.accumulate(parts)["loss"] == pytest.approx(loss.item(), rel=tolerance)
        assert_same(tiny.gradients(policy), expected, tolerance)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trl(tmp_path: Path, scale: str) -> None:
    policy = tiny.policy()
    policy.save(tmp_path)
    rewards = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    dealt = [value for group in rewards for value in group]
    made = trainer("GRPO", tmp_path, policy.model, scale_rewards=scale)
    made.reward_funcs = [lambda completions, **_: dealt]
    prompts = [{"prompt": text} for text in ("1+2=", "1+2=", "5+4=", "5+4=", "7+8=", "7+8=")]

    theirs = made._generate_and_score_completions(prompts)["advantages"]

    ours = [a for group in GRPO(scale=scale).advantages(rewards, [[1, 1]] * 3) for a in group]
    assert theirs.tolist() == pytest.approx(ours, rel=1e-6, abs=1e-9)

"""The oracle for GRPO's family: TRL's trainers on the same batch give the same losses, gradients and advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import token_weights
from latentpad.algorithms.cispo import CISPO
from latentpad.algorithms.dapo import DAPO, overlong_penalty
from latentpad.algorithms.dr_grpo import DrGRPO
from latentpad.algorithms.gspo import GSPO
from latentpad.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from latentpad.algorithms.rloo import RLOO
from latentpad.algorithms.signed import Signed
from tests import tiny
from tests.algorithms.trl_oracle import LIMIT, trainer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from latentpad.algorithms import GroupAlgorithm
    from latentpad.models.policy import Policy


RESPONSES = ["3", "13579", "9", "", "15", "12345"]  # and a stop token each
LENGTHS = [len(text) + 1 for text in RESPONSES]
ADVANTAGES = [1.0, -1.0, -0.7, 0.4, 0.8, -0.6]
# TRL's fused output head computes in float32; all else here is float64.
TOLERANCE = 1e-6


class Step:
    """Six responses to one prompt, whose sampler was another policy, and TRL's names for them."""

    def __init__(self, folder: Path, *, spread: float) -> None:
        policy = tiny.policy(double=True)
        policy.save(folder)
        self.folder, self.policy = folder, policy
        written = [[*policy.tokenizer.encode(text), policy.stop_ids[0]] for text in RESPONSES]
        self.prompt_ids = torch.tensor([tiny.prompt(policy, "1+2").token_ids] * len(written))
        self.response_ids = torch.tensor([[*ids, *[0] * (LIMIT - len(ids))] for ids in written])
        self.mask = torch.arange(LIMIT) < torch.tensor([[len(ids)] for ids in written])
        self.advantages = torch.tensor(ADVANTAGES, dtype=torch.float64)
        noise = torch.rand(self.mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.rollout_logprobs = (self.logprobs().detach() + spread * (2 * noise - 1)).masked_fill(~self.mask, 0.0)

    def logprobs(self) -> Tensor:
        """The policy's, [B, T]."""
        prompt_length = self.prompt_ids.shape[1]
        logits = self.policy.model(input_ids=torch.cat([self.prompt_ids, self.response_ids], dim=1)).logits
        by_token = logits[:, prompt_length - 1 : -1].log_softmax(-1)
        return by_token.gather(-1, self.response_ids.unsqueeze(-1)).squeeze(-1)

    def ours(self, algorithm: GroupAlgorithm) -> tuple[float, dict[str, Tensor], float]:
        """Loss, gradient and clipped share of our algorithm."""
        weights = token_weights(algorithm.needs.aggregation, LENGTHS, LIMIT)
        result = algorithm.token_loss(
            logprobs=self.logprobs(),
            rollout_logprobs=self.rollout_logprobs,
            advantages=self.advantages.unsqueeze(1).expand(-1, LIMIT),
            mask=self.mask,
        )
        loss = (result.loss * torch.tensor(weights, dtype=torch.float64).unsqueeze(1))[self.mask].sum()
        loss.backward()
        return loss.item(), tiny.gradients(self.policy), result.metrics["clip_fraction"][self.mask].mean().item()

    def theirs(self, kind: str, **config: Any) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradient of TRL's trainer."""
        made = trainer(kind, self.folder, self.policy.model, **config)
        loss = made._compute_loss(
            made.model,
            {
                "prompt_ids": self.prompt_ids,
                "prompt_mask": torch.ones_like(self.prompt_ids),
                "completion_ids": self.response_ids,
                "completion_mask": self.mask.long(),
                "advantages": self.advantages,
                "old_per_token_logps": self.rollout_logprobs,  # GRPO
                "old_logps": self.rollout_logprobs.sum(-1),  # RLOO
                "num_items_in_batch": self.mask.sum(),
            },
        )
        loss.backward()
        return loss.item(), tiny.gradients(self.policy)


# TRL's clips; CISPO's upper bound is one of the weight there, and of its distance from 1 here.
CLIPS = {"epsilon": 0.1, "epsilon_high": 0.3}
GRPO_LOSSES = [
    (DrGRPO(clip_low=0.1, clip_high=0.3), {"loss_type": "dr_grpo", **CLIPS}),
    (DAPO(clip_low=0.1, clip_high=0.3), {"loss_type": "dapo", **CLIPS}),
    (ReinforcePlusPlus(clip_low=0.1, clip_high=0.3), {"loss_type": "bnpo", **CLIPS}),
    (Signed(clip_low=0.1, clip_high=0.3), {"loss_type": "dr_grpo", **CLIPS}),
    (CISPO(clip_high=0.3), {"loss_type": "cispo", "epsilon_high": 1.3}),
    (
        GSPO(clip_low=0.03, clip_high=0.04),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
]


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 0.01
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=TOLERANCE, atol=TOLERANCE * largest)


@pytest.mark.parametrize(("algorithm", "config"), GRPO_LOSSES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_loss_and_gradient_equal_grpo_trainer(
    tmp_path: Path, algorithm: GroupAlgorithm, config: dict[str, Any], spread: float
) -> None:
    step = Step(tmp_path, spread=spread)
    loss, gradient, clipped = step.ours(algorithm)
    expected, expected_gradient = step.theirs("GRPO", **config)
    assert (0.1 < clipped < 0.9) if spread else clipped == 0
    assert loss == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    assert_same(gradient, expected_gradient)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_rloo_is_rloo_trainer_but_for_the_constant_length(tmp_path: Path, spread: float) -> None:
    step = Step(tmp_path, spread=spread)
    loss, gradient, clipped = step.ours(RLOO(clip_low=0.1, clip_high=0.3))
    expected, expected_gradient = step.theirs("RLOO", **CLIPS)
    assert (0.1 < clipped < 0.9) if spread else clipped == 0
    assert loss * LIMIT == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    assert_same({name: value * LIMIT for name, value in gradient.items()}, expected_gradient)


@pytest.mark.parametrize(
    ("algorithm", "kind", "config"),
    [
        (RLOO(), "RLOO", {}),
        (DrGRPO(), "GRPO", {"scale_rewards": "none"}),
        (DAPO(), "GRPO", {"scale_rewards": "group"}),
        (GSPO(), "GRPO", {"scale_rewards": "group"}),
        (CISPO(), "GRPO", {"scale_rewards": "group"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_advantages_equal_trl(tmp_path: Path, algorithm: GroupAlgorithm, kind: str, config: dict[str, Any]) -> None:
    policy: Policy = tiny.policy()
    policy.save(tmp_path)
    rewards = [[1.0, 0.0], [0.5, 0.5], [0.0, 0.75]]
    dealt = [reward for group in rewards for reward in group]
    made = trainer(kind, tmp_path, policy.model, **config)
    made.reward_funcs = [lambda completions, **_: dealt]
    prompts = [{"prompt": text} for text in ("1+2=", "1+2=", "5+4=", "5+4=", "7+8=", "7+8=")]

    theirs = made._generate_and_score_completions(prompts)["advantages"]

    ours = [a for group in algorithm.advantages(rewards, [[1, 1]] * 3) for a in group]
    assert theirs.tolist() == pytest.approx(ours, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("limit", "buffer"), [(100, 20), (10, 10), (7, 3), (8, 1), (8, 0)])
def test_overlong_penalty_equals_trl(limit: int, buffer: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    punish = get_soft_overlong_punishment(limit, buffer)
    lengths = range(limit + 3)
    ours = [overlong_penalty(length, limit, buffer) for length in lengths]
    assert ours == pytest.approx(punish([[0] * length for length in lengths]))

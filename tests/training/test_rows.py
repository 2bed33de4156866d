"""From rewards to rows: what is left out, what KL costs, where each number stands, how well values foretold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import Critic, token_weights
from latentpad.algorithms.dapo import DAPO
from latentpad.algorithms.dr_grpo import DrGRPO
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.ppo import PPO
from latentpad.models.reference import Reference
from latentpad.recipe.schema import TrainingSection
from latentpad.training.collate import Rows
from latentpad.training.critic import CriticLearner
from latentpad.training.learner import Learner
from latentpad.training.rows import Observed, make_rows, observe, value_metrics
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.models.policy import Policy
    from latentpad.types import Rollout

PLAIN = PPO(lambda_actor=1.0, normalise=False)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """No test of this file moves it but by laying a reference under it."""
    return tiny.policy()


def four(policy: Policy) -> list[Rollout]:
    """Two groups of two, responses of 2, 3, 4 and 1 tokens; logprobs -1."""
    return [
        tiny.rollout(policy, "1+2", "3", logprob=-1.0),
        tiny.rollout(policy, "1+2", "30", logprob=-1.0),
        tiny.rollout(policy, "9+9", "180", logprob=-1.0),
        tiny.rollout(policy, "9+9", "", logprob=-1.0),
    ]


def flat(rollouts: Sequence[Rollout], value: float, extra: int = 0) -> list[torch.Tensor]:
    return [torch.full((len(r.token_ids) + extra,), value) for r in rollouts]


def made(policy: Policy, signal: list[list[float]], algorithm: Any, observed: Observed, **options: Any) -> Rows:
    return make_rows(four(policy), signal, algorithm, observed, max_new_tokens=8, **options)


NOTHING = Observed(None, None)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_what_is_left_keeps_the_weight_that_it_had_among_all(policy: Policy, aggregation: Any) -> None:
    rows = made(policy, [[1, 1], [1, 0]], GRPO(aggregation=aggregation), NOTHING)
    assert [len(r.token_ids) for r in rows.rollouts] == [4, 1]
    # 2 + 3 + 4 + 1 = 10 tokens in 4 rollouts, of at most 8 tokens
    wanted = {"token": [1 / 10, 1 / 10], "sequence": [1 / 16, 1 / 4], "constant": [1 / 32, 1 / 32]}[aggregation]
    assert list(rows.weights) == pytest.approx(wanted)
    kept = made(policy, [[1, 1], [1, 0]], GRPO(aggregation=aggregation), NOTHING, keep_all=True)
    assert list(kept.weights) == token_weights(aggregation, [2, 3, 4, 1], 8)
    assert list(kept.advantages) == [0, 0, *rows.advantages]


def test_a_step_of_no_group_at_all_has_no_row() -> None:
    """Dynamic sampling may come home with nothing."""
    rows = make_rows([], [], DAPO(), NOTHING, max_new_tokens=8)
    assert rows.batches(100) == []
    assert make_rows([], [], DAPO(), Observed([], None), max_new_tokens=8, reward_kl=0.1).batches(100) == []


def test_kl_in_the_reward_costs_a_response_the_sum_over_its_tokens(policy: Policy) -> None:
    # k1 is logprob - reference = -1 + 1.5 = .5 a token; .2 of it times 2, 3, 4, 1 tokens: .2, .3, .4, .1.
    # rewards 1 - .2, 0 - .3, 0 - .4, 0 - .1: means .25 and -.25, so .55, -.55, -.15, .15
    rows = made(policy, [[1, 0], [0, 0]], DrGRPO(), Observed(flat(four(policy), -1.5), None), reward_kl=0.2)
    assert list(rows.advantages) == pytest.approx([0.55, -0.55, -0.15, 0.15])
    assert rows.reference_logprobs is not None
    assert len(rows.rollouts) == len(rows.reference_logprobs) == 4


def test_a_reference_costs_nothing_where_its_weight_in_the_reward_is_0(policy: Policy) -> None:
    rows = made(policy, [[1, 0], [0, 0]], DrGRPO(), Observed(flat(four(policy), -1.5), None))
    assert list(rows.advantages) == [0.5, -0.5]


def test_a_critics_rewards_stand_at_the_last_token_and_kl_at_each(policy: Policy) -> None:
    # values 0 and lambda 1: advantage t is what is earned from t on. KL .5 a token times .2 = .1:
    # 2 tokens and 1 at the end: 1 - .2, 1 - .1; 3 tokens and 0: -.3 -.2 -.1; 4 tokens: -.4 ... ; 1 token and 1: 1 - .1
    rollouts = four(policy)
    observed = Observed(flat(rollouts, -1.5), flat(rollouts, 0.0, 1))
    rows = made(policy, [[1, 0], [0, 1]], PLAIN, observed, reward_kl=0.2)
    wanted = [[0.8, 0.9], [-0.3, -0.2, -0.1], [-0.4, -0.3, -0.2, -0.1], [0.9]]
    assert rows.returns is not None
    for found in (rows.advantages, rows.returns):
        assert [row.tolist() for row in found] == [pytest.approx(row, abs=1e-6) for row in wanted]


def test_a_critic_learns_from_groups_of_equal_rewards_too(policy: Policy) -> None:
    rollouts = four(policy)
    rows = made(policy, [[1, 1], [0, 0]], PLAIN, Observed(None, flat(rollouts, 0.25, 1)))
    assert [row.tolist() for row in rows.advantages] == [[0.75] * 2, [0.75] * 3, [-0.25] * 4, [-0.25]]
    assert list(rows.weights) == [0.1] * 4


def test_a_cut_response_is_known_to_be_cut(policy: Policy) -> None:
    pair = [tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "34", stop=False)]
    observed = Observed(None, [torch.tensor([0.0, 0.0, 0.5])] * 2)
    rows = make_rows(pair, [[0, 0]], PPO(bootstrap_truncated=True), observed, max_new_tokens=2)
    assert rows.returns is not None
    assert [row.tolist() for row in rows.returns] == [[0, 0], [0.5, 0.5]]


def test_every_number_of_a_token_reaches_its_place_in_the_batch(policy: Policy) -> None:
    rollouts = four(policy)
    values = [torch.arange(len(r.token_ids) + 1) / 8 for r in rollouts]
    rows = made(policy, [[1, 0], [0, 1]], PLAIN, Observed(flat(rollouts, -1.5), values))
    [batch] = rows.batches(1000)
    # micro-batches are in order of length, prompt and response: 4 + 1 (9+9=, stop), 4 + 2, 4 + 3, 4 + 4
    assert batch.response_mask.sum(1).tolist() == [1, 2, 3, 4]
    # return - value: 1 - 0; 1 - 0, 1 - 1/8; 0 - 0, 1/8, 2/8; and so on to 3/8
    wanted = [[1, 0, 0, 0], [1, 7 / 8, 0, 0], [0, -1 / 8, -2 / 8, 0], [0, -1 / 8, -2 / 8, -3 / 8]]
    assert batch.advantages.tolist() == wanted
    assert batch.returns is not None
    assert batch.returns.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert batch.values is not None
    assert batch.values[3].tolist() == [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8]
    assert batch.values[0].tolist() == [0, 1 / 8, 0, 0, 0]
    assert batch.reference_logprobs is not None
    assert torch.equal(batch.reference_logprobs, batch.response_mask * -1.5)


@pytest.mark.parametrize("forbidden", [(), (2, 3)])
def test_what_is_observed_is_what_a_forward_pass_says_for_any_budget(forbidden: tuple[int, ...]) -> None:
    policy = tiny.policy(double=True)
    rollouts = tiny.sampled(policy, 7, temperature=0.7, forbidden_ids=forbidden, max_new_tokens=12)
    learner = Learner(policy, GRPO(), tiny.optimizer(policy), 0.7, forbidden)
    section = TrainingSection(steps=1, learning_rate=0.1, checkpoint_every=1)
    critic = CriticLearner(policy, PPO(critic=Critic(kind="head")), section, seed=0)
    torch.nn.init.ones_(critic.head.linear.weight)
    reference = Reference.of(policy)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.05)
    batches = [tiny.collate([r], [0.0], [1.0]) for r in rollouts]
    with torch.no_grad(), reference.model():
        wanted = [learner.forward(batch).logprobs[0] for batch in batches]
    values = [critic.estimate(batch)[0] for batch in batches]
    for budget in (1, 40, 10_000):
        found = observe(rollouts, learner, reference=reference, critic=critic, budget=budget)
        assert found.reference_logprobs is not None
        assert found.values is not None
        torch.testing.assert_close(found.reference_logprobs, wanted, rtol=0, atol=1e-11)
        torch.testing.assert_close(found.values, values, rtol=0, atol=1e-11)
    assert observe(rollouts, learner, reference=None, critic=None, budget=40) == NOTHING


def foretold(policy: Policy, values: list[list[float]], returns: list[list[float]]) -> dict[str, float]:
    rollouts = [tiny.rollout(policy, "1+2", "7" * len(row), stop=False) for row in returns]
    zeros = [0.0] * len(rollouts)
    columns = [[torch.tensor(row) for row in rows] for rows in (values, returns)]
    return value_metrics(Rows(rollouts, zeros, zeros, None, *columns))


def test_explained_variance_and_errors_by_quarter_by_hand(policy: Policy) -> None:
    # returns 1 x 4 and 0 x 4: variance 1/4. Errors: 1, .5, 0, .5 and 0, 0, 0, -1: mean 1/8, squares 2.5 / 8;
    # variance 5/16 - 1/64 = 19/64; 1 - (19/64) / (1/4) = -3/16. Quarters: (1 + 0) / 2, (.5 + 0) / 2, 0, (.5 + 1) / 2
    found = foretold(policy, [[0, 0.5, 1, 0.5, 9], [0, 0, 0, 1, 9]], [[1] * 4, [0] * 4])
    wanted = {"value_error_q1": 0.5, "value_error_q2": 0.25, "value_error_q3": 0.0, "value_error_q4": 0.75}
    assert found == pytest.approx({"explained_variance": -3 / 16, **wanted})


def test_a_constant_error_is_no_unexplained_variance_and_equal_returns_have_none(policy: Policy) -> None:
    assert foretold(policy, [[0.5, 0], [-0.5, 0]], [[1], [0]])["explained_variance"] == 1
    assert foretold(policy, [[0.5, 0], [-0.5, 0]], [[1], [1]])["explained_variance"] == 0


def test_a_response_of_one_token_is_its_own_first_quarter(policy: Policy) -> None:
    # places i * 4 // n: 1 token 0; 2 tokens 0, 2; 3 tokens 0, 1, 2
    assert set(foretold(policy, [[0, 0]], [[1]])) == {"explained_variance", "value_error_q1"}
    assert foretold(policy, [[0, 0, 0]], [[1, 3]])["value_error_q3"] == 3
    assert "value_error_q4" not in foretold(policy, [[0, 0, 0, 0]], [[1, 3, 5]])

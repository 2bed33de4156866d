"""Single slips that no other test would see, each with what ought to come out, worked by hand."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import Critic, Needs, build_algorithm
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.ppo import PPO
from latentpad.recipe.load import content_key
from latentpad.recipe.rl_schema import KLSection
from latentpad.recipe.schema import TrainingSection
from latentpad.rollout import Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.training.collate import Rows
from latentpad.training.critic import CriticLearner
from latentpad.training.forward import forward, response_hidden, response_logprobs
from latentpad.training.kl_term import KLTerm
from latentpad.training.learner import Learner
from latentpad.training.reduce import weighted_sum
from latentpad.training.rl import RLTrainer
from latentpad.training.rows import Observed, make_rows
from latentpad.training.run_folder import RunFolder
from latentpad.training.signal import earned
from latentpad.types import Episode, FinishReason, Rollout
from reward import Outcome, Reward
from tests import tiny
from tests.training.runs import assert_equal, metrics, saved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import Request

TRAINING = TrainingSection(steps=10, learning_rate=0.01, checkpoint_every=5)


class PowerCutError(Exception):
    """What ends a run in the middle of a step."""


class Script:
    """An engine that writes given answers, step by step; where a step has none, the power is cut."""

    def __init__(self, policy: Policy, steps: Sequence[Sequence[str] | None]) -> None:
        self.policy, self.steps, self.version = policy, iter(steps), 0

    def sync(self, version: int, adapter_hash: str) -> None:
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        answers = next(self.steps, [])
        assert answers != [], "a step more than there are"
        if answers is None:
            raise PowerCutError
        ids = [(*self.policy.tokenizer.encode(text), self.policy.stop_ids[0]) for text in answers]
        return [
            Rollout(r.prompt, i, (-2.0,) * len(i), FinishReason.STOP, self.version, "", r.seed)
            for r, i in zip(requests, ids, strict=True)
        ]


@pytest.fixture
def odd_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grader pays odd answers."""
    monkeypatch.setattr(
        "reward.integer.grade_integer",
        lambda answer, *_, **__: Reward.of(Outcome.CORRECT if int(answer) % 2 else Outcome.WRONG),
    )


def trainer(recipe: Recipe, folder: Path, policy: Policy, engine: Any = None) -> RLTrainer:
    assert recipe.algorithm is not None
    run = RunFolder(folder, recipe, content_key(recipe))
    engine = engine or LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
    return RLTrainer(recipe, run, policy, engine, tiny.task(), tiny.COMPACT, build_algorithm(recipe.algorithm))


# Tokens and states


def test_a_sampled_pad_token_is_a_response_token_like_any_other() -> None:
    policy = tiny.policy()
    made = tiny.rollout(policy, "1+2", "345")
    pad = policy.tokenizer.pad_token_id
    made = replace(made, token_ids=(pad, made.token_ids[1], pad, made.token_ids[3]))
    batch = tiny.collate([made, tiny.rollout(policy, "1+2", "")], [1.0] * 2, [1.0] * 2)
    assert batch.response_mask.tolist() == [[True] * 4, [True, False, False, False]]


def test_hidden_states_are_those_that_each_token_is_predicted_from() -> None:
    policy = tiny.policy(double=True)
    rollouts = [tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "12+34", "1234")]
    batch = tiny.collate(rollouts, [0.0] * 2, [1.0] * 2)
    with torch.no_grad():
        ours = (forward(policy.model, batch, hidden=True).hidden, response_hidden(policy.model, batch))
        for row, rollout in enumerate(rollouts):
            prompt, response = rollout.prompt.token_ids, rollout.token_ids
            whole = policy.model(input_ids=torch.tensor([[*prompt, *response]]), output_hidden_states=True)
            expected = whole.hidden_states[-1][0, len(prompt) - 1 :]
            assert len(expected) == len(response) + 1
            for found in ours:
                assert found is not None
                torch.testing.assert_close(found[row, : len(expected)], expected, rtol=1e-9, atol=1e-9)


def test_the_engine_samples_from_the_weights_as_they_are_now() -> None:
    policy = tiny.policy()
    engine = LocalEngine(policy, chunk_size=8)
    engine.sync(0, policy.trainable_hash())
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.mul_(1.3)
    engine.sync(1, policy.trainable_hash())
    batch = tiny.collate(engine.generate(tiny.requests(policy, 8), Sampling(1.0, 8)), [0.0] * 8, [1.0] * 8)
    with torch.no_grad():
        own = response_logprobs(policy.model, batch)
    torch.testing.assert_close(batch.rollout_logprobs, own, rtol=0, atol=1e-5)


# Sums


def test_losses_at_padding_are_left_out_of_the_sum() -> None:
    policy = tiny.policy()
    batch = tiny.collate([tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "34")], [0.0] * 2, [0.0] * 2)
    losses = torch.tensor([[1.0, 2.0, float("nan")], [3.0, 4.0, 5.0]])
    assert weighted_sum(losses, replace(batch, weights=torch.ones(2, 3))).item() == 1 + 2 + 3 + 4 + 5


def test_a_minibatch_stands_for_the_whole_step(tmp_path: Path) -> None:
    policy = tiny.policy()
    made = trainer(tiny.recipe(), tmp_path, policy)
    rows = Rows([tiny.rollout(policy, "1+2", "7" * i) for i in range(8)], list(range(8)), [0.125] * 8)
    parts = made._minibatches(rows, 4, "policy", 0)
    assert [list(part.weights) for part in parts] == [[0.5, 0.5]] * 4
    assert sorted(a for part in parts for a in part.advantages) == list(range(8))


def test_a_step_clears_its_gradients() -> None:
    policy = tiny.policy()
    made = Learner(policy, GRPO(), tiny.optimizer(policy), 1.0)
    made.step([tiny.collate(tiny.sampled(policy, 2), [1.0, -1.0], [0.1] * 2)], 0)
    assert tiny.gradients(policy) == {}


# What is earned


def test_groups_without_a_signal_are_sampled_anew_until_enough_have_one(tmp_path: Path, odd_is_right: None) -> None:
    rounds = [["1", "3", "5", "2"], ["7", "4", "6", "9"], ["8", "1", "8", "1"]]
    policy = tiny.policy()
    recipe = tiny.recipe(rl={"prompts_per_step": 2, "group_size": 2}, algorithm={"name": "dapo", "sampling_rounds": 3})
    found = trainer(recipe, tmp_path, policy, Script(policy, rounds)).collector.collect(0)
    assert [[e.response for e in group.episodes] for group in found.groups] == [
        ["1", "3"],
        ["5", "2"],
        ["7", "4"],
        ["6", "9"],
    ]
    assert [[e.response for e in group.episodes] for group in found.kept] == [["5", "2"], ["7", "4"]]
    assert found.rounds == 2


def test_length_is_paid_for_near_the_limit() -> None:
    policy, recipe = tiny.policy(), tiny.recipe(rollout={"max_new_tokens": 8})
    made = tiny.rollout(policy, "1+2", "12345")  # 6 tokens with the stop: 2 of the last 4 before the limit
    episode = Episode(made, "12345", Reward.of(Outcome.CORRECT))
    assert earned(policy, episode, recipe, Needs(overlong_buffer=4)) == 1 - 2 / 4
    assert earned(policy, episode, recipe, Needs(overlong_buffer=2)) == 1
    assert earned(policy, episode, recipe, Needs()) == 1


def test_the_entropy_bonus_raises_entropy() -> None:
    policy = tiny.policy()
    made = Learner(policy, GRPO(), tiny.optimizer(policy, learning_rate=1e-3), 1.0, entropy_coef=1.0)
    batch = tiny.collate(tiny.sampled(policy, 4), [0.0] * 4, [0.05] * 4)
    before = made.step([batch], 0)["policy_entropy"]
    assert made.step([batch], 1)["policy_entropy"] > before + 1e-3


# KL


def test_the_loss_of_a_step_is_its_own_and_kl_times_its_weight() -> None:
    policy = tiny.policy(double=True)
    made = Learner(policy, GRPO(), tiny.optimizer(policy), 1.0)
    rollouts = tiny.sampled(policy, 4)
    tokens = sum(len(r.token_ids) for r in rollouts)
    reference = [torch.tensor(r.logprobs) - 0.5 for r in rollouts]
    batch = tiny.collate(rollouts, [1.0, -1.0, 0.5, 0.0], [1 / tokens] * 4, reference_logprobs=reference)
    plain, held = made.accumulate([batch]), made.accumulate([batch], 0.2)
    assert held["kl"] == pytest.approx(2.718281828**-0.5 - 0.5, rel=1e-4)  # k3: e^d - d - 1 with d = -0.5
    assert held["loss"] - plain["loss"] == pytest.approx(0.2 * held["kl"], rel=1e-5)


@pytest.mark.parametrize(("place", "coefs"), [("loss", (0.1, 0.0)), ("reward", (0.0, 0.1)), (None, (0.0, 0.0))])
def test_kl_stands_in_one_place(place: Any, coefs: tuple[float, float]) -> None:
    term = KLTerm(tiny.policy(), None if place is None else KLSection(coef=0.1, place=place))
    assert (term.loss_coef, term.reward_coef) == coefs


@pytest.mark.parametrize(("place", "coef"), [("loss", 0.1), ("reward", 0.0)])
def test_kl_in_the_loss_holds_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd_is_right: None, place: str, coef: float
) -> None:
    given, accumulate = [], Learner.accumulate

    def spy(self: Learner, batches: Any, kl_coef: float = 0.0) -> dict[str, float]:
        given.append(kl_coef)
        return accumulate(self, batches, kl_coef)

    monkeypatch.setattr(Learner, "accumulate", spy)
    policy = tiny.policy()
    made = trainer(
        tiny.recipe(rl={"kl": {"coef": 0.1, "place": place}}), tmp_path, policy, Script(policy, [["1", "2"] * 8])
    )
    made.step()
    assert given == [coef]


def priced(policy: Policy, algorithm: Any, values: list[torch.Tensor] | None) -> Rows:
    """A right response of 2 tokens and a wrong one of 3, sampled at -2 where the reference has -2.5; KL costs 0.5."""
    rollouts = [tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "34")]
    reference = [torch.full((2,), -2.5), torch.full((3,), -2.5)]
    observed = Observed(reference, values)
    return make_rows(rollouts, [[1.0, 0.0]], algorithm, observed, max_new_tokens=8, reward_kl=0.5)


def test_kl_in_the_reward_is_taken_from_each_rollout() -> None:
    # 1 - 0.5 * 1 and 0 - 0.5 * 1.5, mean -0.125
    assert list(priced(tiny.policy(), GRPO(scale="none"), None).advantages) == [0.625, -0.625]


def test_with_a_critic_kl_is_paid_token_by_token_and_the_reward_stands_at_the_last() -> None:
    ppo = PPO(lambda_actor=1, lambda_critic=1, normalise=False)
    rows = priced(tiny.policy(), ppo, [torch.zeros(3), torch.zeros(4)])
    assert rows.returns is not None
    # what is still to come at each token: 0.25 for each token from there on, and the 1 of the right one
    expected = [[0.5, 0.75], [-0.75, -0.5, -0.25]]
    assert [row.tolist() for row in rows.returns] == expected
    assert [torch.as_tensor(row).tolist() for row in rows.advantages] == expected


# The critic


def head(policy: Policy, **options: Any) -> CriticLearner:
    """A critic on the trunk whose value is the first number of a hidden state."""
    algorithm = PPO(value_clip=None, critic=Critic(kind="head", **options))
    made = CriticLearner(policy, algorithm, TRAINING, seed=0)
    with torch.no_grad():
        made.head.linear.weight[0, 0] = 1.0
    return made


def test_a_value_is_of_the_state_before_its_token() -> None:
    policy = tiny.policy()
    columns: dict[str, Any] = {"values": [torch.zeros(4)], "returns": [torch.tensor([0.0, 1.0, 4.0])]}
    batch = tiny.collate([tiny.rollout(policy, "1+2", "34")], [0.0], [1.0], **columns)
    hidden = torch.zeros(1, 4, tiny.SIZES.hidden_size)
    hidden[0, :, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert head(policy).token_loss(hidden, batch).loss.tolist() == [[0.0, 0.0, 2.0]]  # (2 - 4)^2 / 2


@pytest.mark.parametrize("coef", [0.0, 0.1, 1.0])
def test_loss_coef_is_what_the_trunk_feels_of_the_value_loss(coef: float) -> None:
    hidden = torch.tensor([[[1.0, -2.0]]], requires_grad=True)
    shared = head(tiny.policy(), loss_coef=coef).shared(hidden)
    assert shared.tolist() == [[[1.0, -2.0]]]
    assert shared.requires_grad == (coef > 0)
    if coef:
        [felt] = torch.autograd.grad(shared.sum(), hidden)
        assert felt.tolist() == [[pytest.approx([coef, coef])]]


def test_a_value_that_moved_too_far_is_held_by_the_larger_loss() -> None:
    # old 0, clipped to 0.2: the exact value 1 still pays (0.2 - 1)^2 / 2, one within the clip pays its own error
    values, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[1.0, 1.0]])
    found = PPO(value_clip=0.2).value_loss(values=values, old_values=torch.zeros(1, 2), returns=returns)
    assert found.loss.tolist() == [pytest.approx([0.32, 0.405])]


def test_a_single_token_is_normalised_to_nothing() -> None:
    one = torch.tensor([[1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a deviation without degrees of freedom: the number is what counts
        advantages, returns = PPO().token_advantages(one, torch.zeros(1, 2), torch.tensor([1]), torch.tensor([False]))
    assert (advantages.tolist(), returns.tolist()) == ([[0.0]], [[1.0]])


# Resuming


def test_a_run_that_breaks_off_goes_on_to_the_same_bits(tmp_path: Path, odd_is_right: None) -> None:
    """Weights, moments, critic, KL's weight and the schedule: all of them have moved when the power is cut."""
    recipe = tiny.recipe(
        algorithm={"name": "ppo", "critic": {"kind": "model", "pretraining_steps": 1, "minibatches": 1}},
        rl={"prompts_per_step": 2, "group_size": 2, "kl": {"coef": 0.1, "target": 0.001}},
        training={"steps": 5, "checkpoint_every": 3, "schedule": "cosine"},
    )

    def answers(cut: int | None = None, first: int = 0) -> Iterator[list[str] | None]:
        yield from (None if step == cut else [str(step + i * i) for i in range(4)] for step in range(first, 5))

    def train(name: str, steps: Iterator[list[str] | None]) -> Path:
        policy = tiny.policy()
        made = trainer(recipe, tmp_path / name, policy, Script(policy, list(steps)))
        try:
            made.train()
        finally:
            made.run.close()
        return tmp_path / name

    whole = train("whole", answers())
    with pytest.raises(PowerCutError):
        train("broken", answers(cut=4))
    broken = train("broken", answers(first=3))
    assert metrics(broken) == metrics(whole)
    assert_equal(saved(broken / "checkpoints" / "5"), saved(whole / "checkpoints" / "5"), "state")
    assert len({record["kl_coef"] for record in metrics(whole)}) > 2

"""PPO's numbers, worked by hand, and its advantages against a loop that a child could read."""

from __future__ import annotations

from math import nan, sqrt
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentpad.algorithms import Critic, CriticAlgorithm, GroupAlgorithm, Needs, build_algorithm
from latentpad.algorithms.ppo import PPO, gae, with_terminal
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component

lambdas = st.floats(0, 1)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def of_one(ppo: PPO, rewards: list[float], values: list[float], *, cut: bool = False) -> tuple[list[float], ...]:
    """Advantages and returns of a single response."""
    found = ppo.token_advantages(row(*rewards), row(*values), torch.tensor([len(rewards)]), torch.tensor([cut]))
    return tuple(column[0].tolist() for column in found)


def oracle(rewards: list[float], values: list[float], lam: float) -> list[float]:
    """Eq. 16 of the GAE paper term by term: the sum over l of lambda^l delta_(t+l), one value for the end."""
    count = len(rewards)
    advantages = []
    for t in range(count):
        total = 0.0
        for later in range(t, count):
            delta = rewards[later] + values[later + 1] - values[later]
            total += lam ** (later - t) * delta
        advantages.append(total)
    return advantages


def steps() -> st.SearchStrategy[dict[str, Any]]:
    """Responses of different lengths, each with rewards, values (one more) and whether it was cut."""
    return st.builds(made, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 10**6))


def made(lengths: list[int], seed: int) -> dict[str, Any]:
    """Drawn here and not by hypothesis: a test of hundreds of numbers would take it seconds."""
    rng = Random(seed)
    return {
        "rewards": [[rng.uniform(-2, 2) for _ in range(n)] for n in lengths],
        "values": [[rng.uniform(-2, 2) for _ in range(n + 1)] for n in lengths],
        "cut": [rng.random() < 0.5 for _ in lengths],
    }


def tensors(step: dict[str, Any], poison: float = 0.0, extra: int = 0) -> tuple[torch.Tensor, ...]:
    """Padded to the longest response and `extra` columns, the padding full of `poison`."""
    lengths = [len(r) for r in step["rewards"]]
    rewards = torch.full((len(lengths), max(lengths) + extra), poison, dtype=torch.float64)
    values = torch.full((len(lengths), max(lengths) + extra + 1), poison, dtype=torch.float64)
    for i, length in enumerate(lengths):
        rewards[i, :length] = torch.tensor(step["rewards"][i], dtype=torch.float64)
        values[i, : length + 1] = torch.tensor(step["values"][i], dtype=torch.float64)
    return rewards, values, torch.tensor(lengths), torch.tensor(step["cut"])


@settings(max_examples=40, deadline=None)
@given(step=steps(), actor=lambdas, critic=lambdas, bootstrap=st.booleans(), alpha=st.none() | st.floats(0.1, 2))
def test_advantages_and_returns_are_those_of_a_plain_loop(
    step: dict[str, Any], actor: float, critic: float, bootstrap: bool, alpha: float | None
) -> None:
    ppo = PPO(
        lambda_actor=actor,
        lambda_critic=critic,
        bootstrap_truncated=bootstrap,
        length_adaptive=alpha,
        normalise=False,
    )
    advantages, returns = ppo.token_advantages(*tensors(step))
    for i, (rewards, values, cut) in enumerate(zip(step["rewards"], step["values"], step["cut"], strict=True)):
        count = len(rewards)
        ended = [*values[:-1], values[-1] if cut and bootstrap else 0.0]
        lam = actor if alpha is None else max(actor, 1 - 1 / (alpha * count))
        assert advantages[i, :count].tolist() == pytest.approx(oracle(rewards, ended, lam), abs=1e-9)
        wanted = [a + v for a, v in zip(oracle(rewards, ended, critic), values[:-1], strict=True)]
        assert returns[i, :count].tolist() == pytest.approx(wanted, abs=1e-9)
        assert not advantages[i, count:].any()
        assert not returns[i, count:].any()


@pytest.mark.parametrize("poison", [nan, 1e9, float("inf")])
@pytest.mark.parametrize("normalise", [False, True])
@settings(max_examples=40, deadline=None)
@given(step=steps(), extra=st.integers(0, 3))
def test_what_stands_beyond_a_response_changes_nothing(
    poison: float, normalise: bool, step: dict[str, Any], extra: int
) -> None:
    ppo = PPO(normalise=normalise, length_adaptive=0.5, bootstrap_truncated=True)
    clean, dirty = ppo.token_advantages(*tensors(step)), ppo.token_advantages(*tensors(step, poison, extra))
    width = clean[0].shape[1]
    for found, expected in zip(dirty, clean, strict=True):
        torch.testing.assert_close(found[:, :width], expected, rtol=1e-12, atol=1e-12)
        assert not found[:, width:].any()


def test_three_tokens_by_hand() -> None:
    # deltas 0 + .4 - .2 = .2, 0 + .6 - .4 = .2, 1 + 0 - .6 = .4; lambda 1/2 from the back: .4, .2 + .2 = .4, .2 + .2
    ppo = PPO(lambda_actor=0.5, normalise=False)
    advantages, returns = of_one(ppo, [0, 0, 1], [0.2, 0.4, 0.6, 7.0])
    assert advantages == pytest.approx([0.4, 0.4, 0.4])
    assert returns == pytest.approx([1, 1, 1])
    # the critic's own lambda 1/2: the same sums plus the values .2, .4, .6
    assert of_one(PPO(lambda_critic=0.5), [0, 0, 1], [0.2, 0.4, 0.6, 7.0])[1] == pytest.approx([0.6, 0.8, 1.0])


def test_lambda_0_looks_one_token_ahead() -> None:
    advantages, _ = of_one(PPO(lambda_actor=0, normalise=False), [0, 0, 1], [0.2, 0.5, 0.6, 7.0])
    assert advantages == pytest.approx([0.3, 0.1, 0.4])


@settings(max_examples=40, deadline=None)
@given(step=steps())
def test_with_lambda_critic_1_returns_are_what_was_earned_from_there_on(step: dict[str, Any]) -> None:
    _, returns = PPO().token_advantages(*tensors(step))
    for i, rewards in enumerate(step["rewards"]):
        assert returns[i, : len(rewards)].tolist() == pytest.approx([sum(rewards[t:]) for t in range(len(rewards))])


@pytest.mark.parametrize(
    ("cut", "bootstrap", "returns"),
    [(False, False, [1, 1]), (True, False, [1, 1]), (False, True, [1, 1]), (True, True, [1.5, 1.5])],
)
def test_only_a_cut_response_ends_in_a_value_and_only_if_asked(
    cut: bool, bootstrap: bool, returns: list[float]
) -> None:
    ppo = PPO(bootstrap_truncated=bootstrap, lambda_actor=1, normalise=False)
    found = of_one(ppo, [0, 1], [0.25, 0.25, 0.5], cut=cut)
    assert found[1] == pytest.approx(returns)
    assert found[0] == pytest.approx([r - 0.25 for r in returns])


def test_values_beyond_the_end_are_0_and_the_one_at_the_end_is_kept_where_asked() -> None:
    values = torch.tensor([[1.0, 2, 3, nan], [4, 5, nan, nan]])
    kept = with_terminal(values, torch.tensor([2, 1]), torch.tensor([True, False]))
    assert kept.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]


def test_each_row_has_its_own_lambda() -> None:
    # deltas 0 and 1 in both; lambda 1 carries the 1 to the first token, lambda 0 does not
    rewards, values = torch.tensor([[0.0, 1.0]] * 2), torch.zeros(2, 3)
    found = gae(rewards, values, torch.tensor([2, 2]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == [[1, 1], [0, 1]]


def test_the_length_adaptive_lambda_rules_long_responses_alone() -> None:
    # 1 - 1 / (alpha l), alpha 1/20: of 400 tokens 1 - 1/20 = .95, of 800 .975; of 10 it would be -1: the guard
    ppo = PPO(lambda_actor=0.9, length_adaptive=0.05)
    assert ppo.lambdas(torch.tensor([1, 10, 200, 400, 800])).tolist() == pytest.approx([0.9, 0.9, 0.9, 0.95, 0.975])
    assert PPO(lambda_actor=0.9).lambdas(torch.tensor([1, 8000])).tolist() == [0.9, 0.9]


def test_the_length_adaptive_lambda_is_of_the_actor_alone() -> None:
    # alpha 1, 4 tokens: lambda 3/4; deltas 0 0 0 1, so 27/64, 9/16, 3/4, 1; returns with lambda 0: the deltas
    ppo = PPO(lambda_actor=0.0, lambda_critic=0.0, length_adaptive=1.0, normalise=False)
    advantages, returns = of_one(ppo, [0, 0, 0, 1], [0.0] * 5)
    assert advantages == pytest.approx([27 / 64, 9 / 16, 3 / 4, 1])
    assert returns == [0, 0, 0, 1]


def test_normalised_advantages_have_mean_0_and_spread_1_over_the_tokens_of_the_step() -> None:
    # values 0 and lambda 1: 1 at the 1 token of the first response, 0 at the 3 of the second. Mean 1/4, squares
    # 9/16 + 3/16 = 3/4, variance (3/4) / 3 = 1/4, spread 1/2: 3/2, and -1/2 three times; padding does not count
    rewards, lengths = torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.tensor([1, 3])
    found, returns = PPO(lambda_actor=1).token_advantages(rewards, torch.zeros(2, 4), lengths, torch.zeros(2).bool())
    assert [r.tolist() for r in found] == [pytest.approx([1.5, 0, 0]), pytest.approx([-0.5] * 3)]
    assert returns.tolist() == [[1, 0, 0], [0, 0, 0]]


@settings(max_examples=40, deadline=None)
@given(step=steps())
def test_normalising_shifts_and_scales_and_nothing_else(step: dict[str, Any]) -> None:
    whole = tensors(step)
    inside = torch.arange(whole[0].shape[1]) < whole[2][:, None]
    plain = PPO(normalise=False).token_advantages(*whole)[0][inside]
    if len(plain) < 2 or float(plain.std()) < 0.01:
        return
    found = PPO().token_advantages(*whole)[0][inside]
    assert float(found.mean()) == pytest.approx(0, abs=1e-9)
    assert float(found.std()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found, (plain - plain.mean()) / plain.std(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_equal_advantages_become_0_and_one_token_alone_too(count: int) -> None:
    advantages, _ = of_one(PPO(lambda_actor=1), [0.0] * (count - 1) + [1.0], [0.0] * (count + 1))
    assert advantages == [0.0] * count


def value_loss(ppo: PPO, value: float, old: float, returned: float) -> tuple[float, float, dict[str, float]]:
    """Loss, gradient by the value, metrics."""
    values = row(value).requires_grad_()
    found = ppo.value_loss(values=values, old_values=row(old), returns=row(returned))
    found.loss.sum().backward()
    assert values.grad is not None
    return float(found.loss.detach()), float(values.grad), {name: float(v) for name, v in found.metrics.items()}


@pytest.mark.parametrize(
    ("value", "old", "returned", "loss", "slope", "clipped"),
    [
        # within .2 of the old value: (.1 - 1)^2 / 2 = .405, slope .1 - 1
        (0.1, 0.0, 1.0, 0.405, -0.9, 0.0),
        # moved .5 towards the return: (.5 - 1)^2 / 2 = .125, clipped (.2 - 1)^2 / 2 = .32 is larger: no slope
        (0.5, 0.0, 1.0, 0.32, 0.0, 1.0),
        # moved .5 away from it: (-.5 - 1)^2 / 2 = 1.125 is larger than (-.2 - 1)^2 / 2 = .72: pulled back
        (-0.5, 0.0, 1.0, 1.125, -1.5, 0.0),
        # from above: (1.4 - 1)^2 / 2 = .08 against (1.8 - 1)^2 / 2 = .32
        (1.4, 2.0, 1.0, 0.32, 0.0, 1.0),
    ],
)
def test_a_value_is_not_pulled_far_from_the_old_one(
    value: float, old: float, returned: float, loss: float, slope: float, clipped: float
) -> None:
    found = value_loss(PPO(value_clip=0.2), value, old, returned)
    assert found[:2] == (pytest.approx(loss), pytest.approx(slope))
    assert found[2] == {"value_clip_fraction": clipped}
    free = value_loss(PPO(value_clip=None), value, old, returned)
    assert free == (pytest.approx((value - returned) ** 2 / 2), pytest.approx(value - returned), {})


def test_the_policy_loss_is_the_clipped_surrogate() -> None:
    # ratios 1.5, 1.5, .5, .5 with advantages 1, -1, 1, -1: -min gives -1.2 (clipped), 1.5, -.5, .8 (clipped)
    logprobs = row(1.5, 1.5, 0.5, 0.5).log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    found = PPO().token_loss(
        logprobs=logprobs, rollout_logprobs=torch.zeros_like(logprobs), advantages=row(1, -1, 1, -1), mask=mask
    )
    found.loss.sum().backward()
    assert found.loss[0].tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0, 1.5, -0.5, 0])
    assert found.metrics["clip_fraction"].tolist() == [[1, 0, 0, 1]]


def test_it_is_a_critic_algorithm_with_options_of_two_floors() -> None:
    options = {"value_clip": None, "aggregation": "constant", "critic": {"kind": "head", "loss_coef": 0.5}}
    built = build_algorithm(Component.model_validate({"name": "ppo", **options}))
    assert built == PPO(value_clip=None, aggregation="constant", critic=Critic(kind="head", loss_coef=0.5))
    assert isinstance(built, CriticAlgorithm)
    assert not isinstance(built, GroupAlgorithm)
    assert built.needs == Needs("constant", credit_decay=0.95)


OPTIONS = "(allowed: kind, learning_rate, lora_rank, loss_coef, minibatches, pretraining_steps)"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"clip_low": 0.0}, "algorithm: clip_low 0.0, clip_high 0.2: expected 0 < clip_low <= 1, 0 < clip_high"),
        ({"lambda_actor": 1.5}, "algorithm: lambda_actor: got 1.5; expected 0 to 1"),
        ({"lambda_critic": -0.1}, "algorithm: lambda_critic: got -0.1; expected 0 to 1"),
        ({"lambda_critic": nan}, "algorithm: lambda_critic: got nan; expected 0 to 1"),
        ({"value_clip": 0.0}, "algorithm: value_clip: got 0.0; expected more than 0, or null"),
        ({"length_adaptive": -1.0}, "algorithm: length_adaptive: got -1.0; expected more than 0, or null"),
        ({"aggregation": "mean"}, "algorithm.aggregation: got 'mean'; allowed: 'token', 'sequence' or 'constant'"),
        ({"lamda_actor": 0.5}, "algorithm.lamda_actor: unknown key of algorithm 'ppo' 'lamda_actor'; did you mean 'la"),
        ({"critic": {"kind": "hed"}}, "algorithm.critic.kind: got 'hed'; did you mean 'head'? allowed: 'head' or 'mo"),
        ({"critic": {"lora_rank": 1.5}}, "algorithm.critic.lora_rank: got 1.5; input should be a valid integer"),
        ({"critic": {"kind": "head", "lora_rank": 2}}, "algorithm.critic: lora_rank is of a 'model'; a 'head' stands"),
        ({"critic": {"minibatches": 0}}, "algorithm.critic: minibatches: got 0; expected more than 0"),
        ({"critic": {"loss_coef": -1.0}}, "algorithm.critic: loss_coef: got -1.0; expected 0 or more"),
        ({"critic": {"kindd": "head"}}, f"algorithm.critic.kindd: unknown key 'kindd'; did you mean 'kind'? {OPTIONS}"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as error:
        build_algorithm(Component.model_validate({"name": "ppo", **options}))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_the_normalised_two_token_step_by_hand() -> None:
    # advantages 1 and 0: mean 1/2, squares 1/2, variance (1/2) / 1, spread sqrt(1/2)
    found, _ = of_one(PPO(lambda_actor=0), [1, 0], [0, 0, 0])
    assert found == pytest.approx([sqrt(0.5), -sqrt(0.5)])

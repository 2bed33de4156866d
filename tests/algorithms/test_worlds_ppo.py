"""PPO's advantages in a world that can be enumerated: which critics and lambdas give the gradient of the pass rate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentpad.algorithms.ppo import PPO
from tests.algorithms.world import (
    LENGTHS,
    LIMIT,
    MASK,
    PREFIX_IDS,
    PROMPTS,
    RESPONSES,
    TRUNCATED,
    token_gradients,
    world,
)

WORLD = world()
GRADIENT = WORLD.gradient(WORLD.pass_rates().mean())
COUNT = len(RESPONSES)
# What stands in the table of values where a response has ended, and beyond: nobody may read it.
RUBBISH = 9.0


def critic(table: Tensor, terminal: float = RUBBISH) -> Tensor:
    """[prompts, N, T + 1] from [prompts, N, T] values before each token."""
    padded = torch.where(MASK, table, RUBBISH)
    values = torch.cat([padded, torch.full((PROMPTS, COUNT, 1), RUBBISH, dtype=torch.float64)], dim=-1)
    return values.scatter(-1, LENGTHS[:, None].expand(PROMPTS, COUNT, 1), terminal)


def errors(seed: int = 5) -> Tensor:
    """[prompts, N, T] what a wrong critic adds: a random number for each prefix."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(PROMPTS, COUNT, dtype=torch.float64, generator=generator)
    return table[:, PREFIX_IDS] * MASK


def token_advantages(ppo: PPO, values: Tensor) -> tuple[Tensor, Tensor]:
    """[prompts, N, T] advantages and returns of every response, its reward at its last token."""
    rewards = torch.zeros(PROMPTS, COUNT, LIMIT, dtype=torch.float64)
    rewards.scatter_(-1, (LENGTHS - 1)[:, None].expand(PROMPTS, COUNT, 1), WORLD.rewards[..., None])
    advantages, returns = ppo.token_advantages(
        rewards.flatten(0, 1), values.flatten(0, 1), LENGTHS.repeat(PROMPTS), TRUNCATED.repeat(PROMPTS)
    )
    return advantages.reshape(rewards.shape), returns.reshape(rewards.shape)


def response_ascents(ppo: PPO, values: Tensor) -> Tensor:
    """[prompts * N, D] what each response alone makes the policy climb: its sum over tokens of A grad logprob."""
    prompts = torch.arange(PROMPTS).repeat_interleave(COUNT)[:, None]
    responses = torch.arange(COUNT).repeat(PROMPTS)[:, None]
    advantages = token_advantages(ppo, values)[0].reshape(-1, 1, LIMIT)
    return -token_gradients(WORLD, ppo, prompts, responses, advantages, torch.ones(PROMPTS * COUNT, 1).double())


def expected_ascent(ppo: PPO, values: Tensor) -> Tensor:
    """[D] mean over prompts, and over the policy's own responses."""
    return WORLD.probabilities().detach().flatten() / PROMPTS @ response_ascents(ppo, values)


def test_without_a_critic_every_token_of_a_response_is_credited_with_its_reward() -> None:
    # A_t = r for all t, so the ascent is REINFORCE's r grad log pi(response), response by response
    ppo = PPO(lambda_actor=1, normalise=False)
    nothing = critic(torch.zeros(PROMPTS, COUNT, LIMIT, dtype=torch.float64))
    assert torch.equal(token_advantages(ppo, nothing)[0], WORLD.rewards[..., None] * MASK)
    scores = WORLD.jacobian.reshape(PROMPTS * COUNT, LIMIT, -1).sum(1)
    torch.testing.assert_close(response_ascents(ppo, nothing), WORLD.rewards.flatten()[:, None] * scores)
    torch.testing.assert_close(expected_ascent(ppo, nothing), GRADIENT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lambda_actor", [0, 0.5, 0.95, 1])
def test_with_the_true_values_any_lambda_climbs_the_pass_rate(lambda_actor: float) -> None:
    # E[A_t | prefix, token] = Q - V for every lambda, and E[V grad logprob] = 0
    ppo = PPO(lambda_actor=lambda_actor, normalise=False)
    torch.testing.assert_close(expected_ascent(ppo, critic(WORLD.values())), GRADIENT, rtol=0, atol=1e-12)


def test_with_lambda_1_any_critic_climbs_the_pass_rate() -> None:
    # A_t = r - V(prefix): whatever depends on the prefix alone is a baseline
    wrong = critic(WORLD.values() + errors())
    ascent = expected_ascent(PPO(lambda_actor=1, normalise=False), wrong)
    torch.testing.assert_close(ascent, GRADIENT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lambda_actor", [0, 0.5, 0.95])
def test_below_lambda_1_the_critics_errors_enter_the_gradient(lambda_actor: float) -> None:
    # A_t = (1 - l) sum_n l^(n-1) (r.. + V(s_(t+n)) - V(s_t)): the error e at each later prefix stays, with weight
    # (1 - l) l^(n-1), until the response ends
    extra = torch.zeros(PROMPTS, COUNT, LIMIT, dtype=torch.float64)
    wrong = errors()
    for t in range(LIMIT):
        for n in range(1, LIMIT - t):
            extra[..., t] += (1 - lambda_actor) * lambda_actor ** (n - 1) * wrong[..., t + n]
    scores = WORLD.jacobian.reshape(PROMPTS, COUNT, LIMIT, -1)
    bias = torch.einsum("pn,pnt,pntd->d", WORLD.probabilities().detach() / PROMPTS, extra, scores)
    ascent = expected_ascent(PPO(lambda_actor=lambda_actor, normalise=False), critic(WORLD.values() + wrong))
    torch.testing.assert_close(ascent, GRADIENT + bias, rtol=0, atol=1e-12)
    assert bias.norm() > 0.5 * (1 - lambda_actor) * GRADIENT.norm()


def test_lambda_buys_less_variance_for_that_bias() -> None:
    # with the true values: the squared length of a response's ascent falls with lambda, the mean stays
    chances = WORLD.probabilities().detach().flatten() / PROMPTS
    squares = [
        float(chances @ response_ascents(PPO(lambda_actor=x, normalise=False), critic(WORLD.values())).square().sum(1))
        for x in (0, 0.5, 1)
    ]
    assert squares[0] < squares[1] < squares[2]


def test_the_critics_targets_are_monte_carlo_returns_whatever_it_says() -> None:
    # lambda_critic = 1: r.. summed to the end, at every token, for any critic and any lambda_actor
    returns = token_advantages(PPO(lambda_actor=0.5), critic(WORLD.values() + errors()))[1]
    torch.testing.assert_close(returns, WORLD.rewards[..., None] * MASK, rtol=0, atol=1e-12)


def test_targets_below_lambda_critic_1_average_to_the_values_only_if_the_critic_is_right() -> None:
    # lambda_critic = 0: r_t + V(s_(t+1)); its mean over responses with the same prefix is V(s_t), if V is true
    chances = WORLD.probabilities().detach()
    for wrong, right in ((torch.zeros_like(errors()), True), (errors(), False)):
        returns = token_advantages(PPO(lambda_critic=0), critic(WORLD.values() + wrong))[1]
        mean = (chances * returns[..., 0]).sum(-1)
        assert torch.allclose(mean, WORLD.pass_rates(), rtol=0, atol=1e-12) is right


def test_what_follows_the_last_token_is_worth_nothing() -> None:
    # neither after a stop nor after a cut: the terminal value may be anything
    for ppo in (PPO(normalise=False), PPO(normalise=True)):
        for low, high in zip(
            token_advantages(ppo, critic(WORLD.values(), 0.0)),
            token_advantages(ppo, critic(WORLD.values(), 3.0)),
            strict=True,
        ):
            assert torch.equal(low, high)


def test_bootstrapping_pays_a_cut_response_its_terminal_value() -> None:
    # lambda 1 and terminal value c: r + c 1[cut] - V, so the policy climbs p + c P(cut); stopped responses see no c
    ppo = PPO(lambda_actor=1, normalise=False, bootstrap_truncated=True)
    ascent = expected_ascent(ppo, critic(WORLD.values() + errors(), 0.25))
    cut = WORLD.probabilities()[:, TRUNCATED].sum(-1)
    paid = WORLD.gradient((WORLD.pass_rates() + 0.25 * cut).mean())
    torch.testing.assert_close(ascent, paid, rtol=0, atol=1e-12)
    assert (paid - GRADIENT).norm() > 0.1 * GRADIENT.norm()


def test_normalising_by_a_mean_and_a_spread_that_no_draw_moves_only_rescales() -> None:
    # (A - c) / std, and c is one number for the whole batch, here of every response once: c E[sum of scores] = 0
    values = critic(WORLD.values())
    plain, normal = (PPO(lambda_actor=1, normalise=x) for x in (False, True))
    spread = token_advantages(plain, values)[0][MASK.expand(PROMPTS, -1, -1)].std()
    torch.testing.assert_close(expected_ascent(normal, values), GRADIENT / spread, rtol=1e-7, atol=1e-12)

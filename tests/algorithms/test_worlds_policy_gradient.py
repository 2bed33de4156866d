"""Which algorithms climb the pass rate: their expected ascent, over every step that may be drawn, is its gradient.

The sum of the scores grad log pi(response) has mean 0, so E[(r - b) grad log pi] = grad E[r] for any b that does not
depend on the response itself. `constant` aggregation divides by the length limit; the expectation is exact.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from latentpad.algorithms import GroupAlgorithm, TokenObjective
from latentpad.algorithms.cispo import CISPO
from latentpad.algorithms.dapo import DAPO
from latentpad.algorithms.dr_grpo import DrGRPO
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.gspo import GSPO
from latentpad.algorithms.ppo import PPO
from latentpad.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from latentpad.algorithms.rloo import RLOO
from latentpad.algorithms.signed import Signed
from tests.algorithms.world import (
    LENGTHS,
    LIMIT,
    PREFIXES,
    PROMPTS,
    RESPONSES,
    TRUNCATED,
    Steps,
    ascents,
    cosine,
    every_step,
    token_gradients,
    world,
)

WORLD = world()
GRADIENT = WORLD.gradient(WORLD.pass_rates().mean())
PSR, NSR = Signed(right=1, wrong=0), Signed(right=0, wrong=1)


@cache
def steps(prompts: tuple[int, ...], group_size: int) -> Steps:
    return every_step(WORLD, prompts, group_size)


def expected(algorithm: GroupAlgorithm, group_size: int) -> Tensor:
    """[D] mean over prompts of the expected ascent from one group."""
    drawn = [steps((prompt,), group_size) for prompt in range(PROMPTS)]
    return torch.stack([one.mean(ascents(WORLD, algorithm, one)) for one in drawn]).mean(0)


def climbs(algorithm: GroupAlgorithm, objective: Tensor, *, group_size: int) -> None:
    exact = WORLD.gradient(objective.mean()) / LIMIT
    torch.testing.assert_close(expected(algorithm, group_size), exact, rtol=0, atol=1e-12)
    assert exact.norm() > 1e-2


def test_the_world_is_a_policy_with_truncated_responses_and_gradients_that_can_be_seen() -> None:
    torch.testing.assert_close(WORLD.probabilities().sum(-1), torch.ones(PROMPTS).double())
    assert len(set(RESPONSES)) == len(RESPONSES) == 15
    assert len(PREFIXES) == 7
    assert LENGTHS.tolist() == [1, 2, 2, 3, 3, 3, 3] + [3] * 8
    assert TRUNCATED.tolist() == [False] * 7 + [True] * 8
    assert WORLD.probabilities()[:, TRUNCATED].sum(-1).min() > 0.1
    assert all(0.1 < p < 0.9 for p in WORLD.pass_rates().tolist())
    assert abs(WORLD.pass_rates().diff()) > 0.1
    assert GRADIENT.norm() > 0.1


def test_the_exact_gradient_agrees_with_differences_of_the_pass_rate() -> None:
    step = 1e-6
    for index in (0, 4, 21, 40):
        nudge = torch.zeros(WORLD.logits.numel(), dtype=torch.float64)
        nudge[index] = step
        rates = [
            type(WORLD)(WORLD.logits.detach() + sign * nudge.reshape(WORLD.logits.shape), WORLD.rewards)
            .pass_rates()
            .mean()
            for sign in (1, -1)
        ]
        assert float(rates[0] - rates[1]) / 2 / step == pytest.approx(float(GRADIENT[index]), abs=1e-9)


@pytest.mark.parametrize("group_size", [2, 3])
def test_rloo_climbs_the_pass_rate(group_size: int) -> None:
    # the baseline is the mean of the others, which the response does not move
    climbs(RLOO(), WORLD.pass_rates(), group_size=group_size)


def test_a_step_of_several_groups_climbs_the_mean_over_its_prompts() -> None:
    drawn = steps((0, 1), 2)
    torch.testing.assert_close(drawn.mean(ascents(WORLD, RLOO(), drawn)), GRADIENT / LIMIT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("algorithm", [DrGRPO(), GRPO(scale="none", aggregation="constant")])
@pytest.mark.parametrize("group_size", [2, 3])
def test_centring_by_the_group_alone_climbs_the_pass_rate_a_little_slower(
    algorithm: GroupAlgorithm, group_size: int
) -> None:
    # r - mean = (G - 1) / G (r - mean of the others)
    climbs(algorithm, (group_size - 1) / group_size * WORLD.pass_rates(), group_size=group_size)


@pytest.mark.parametrize(
    ("right", "wrong"), [(1, 0), (0, 1), (1, 1), (0.1, 1)], ids=["PSR", "NSR", "REINFORCE", "W-REINFORCE"]
)
def test_rewarding_the_right_and_penalising_the_wrong_climb_the_pass_rate_alike(right: float, wrong: float) -> None:
    # A = (right + wrong) r - wrong, and the constant has mean 0
    climbs(Signed(right=right, wrong=wrong), (right + wrong) * WORLD.pass_rates(), group_size=2)


def test_real_valued_rewards_are_climbed_too() -> None:
    rewards = torch.linspace(-1, 2, len(RESPONSES), dtype=torch.float64).expand(PROMPTS, -1)
    exact = WORLD.gradient((WORLD.probabilities() * rewards).sum(-1)[1]) / LIMIT
    drawn = steps((1,), 2)
    torch.testing.assert_close(drawn.mean(ascents(WORLD, RLOO(), drawn, rewards=rewards)), exact, rtol=0, atol=1e-12)


def test_group_scaled_pairs_and_triples_climb_the_pass_rate() -> None:
    # a pair is dead or 1, 0; a triple dead or 1 against 2: the standard deviation s is the same in every live group
    # (sqrt(1/2), sqrt(1/3)), so dividing by s + 1e-4 is no more than a factor. From G = 4 on it is not
    for group_size, spread in ((2, 0.5**0.5), (3, (1 / 3) ** 0.5)):
        factor = (group_size - 1) / group_size / (spread + 1e-4)
        climbs(GRPO(aggregation="constant"), factor * WORLD.pass_rates(), group_size=group_size)


@pytest.mark.parametrize(
    "algorithm",
    [GRPO(), DrGRPO(), DAPO(), CISPO(), PPO(), ReinforcePlusPlus(), RLOO(), Signed(), GSPO()],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_on_policy_every_loss_has_the_plain_policy_gradient_of_its_advantages(algorithm: TokenObjective) -> None:
    # ratio 1, nothing clipped: the ascent of a response is A times the sum of its tokens' scores
    responses = torch.arange(len(RESPONSES))[:, None]
    advantages = torch.linspace(-1, 1, len(RESPONSES), dtype=torch.float64)
    prompts, ones = torch.ones_like(responses), torch.ones(responses.shape, dtype=torch.float64)
    rows = advantages[:, None, None].expand(-1, 1, LIMIT)
    ascent = -token_gradients(WORLD, algorithm, prompts, responses, rows, ones)
    scores = WORLD.jacobian.reshape(PROMPTS, len(RESPONSES), LIMIT, -1)[1].sum(1)
    torch.testing.assert_close(ascent, advantages[:, None] * scores, rtol=0, atol=1e-12)


def test_on_policy_gspo_is_grpo_with_a_mean_over_each_response() -> None:
    # s = exp(mean log ratio): every token's loss has the gradient A (1/|o|) sum of scores, and 1/|o| of them add up
    drawn = steps((1,), 3)
    torch.testing.assert_close(
        ascents(WORLD, GSPO(), drawn), ascents(WORLD, GRPO(aggregation="sequence"), drawn), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("algorithm", [CISPO(), DAPO()], ids=["CISPO", "DAPO"])
def test_on_policy_cispo_and_dapo_are_grpo_with_a_mean_over_tokens(algorithm: GroupAlgorithm) -> None:
    drawn = steps((1,), 3)
    torch.testing.assert_close(
        ascents(WORLD, algorithm, drawn), ascents(WORLD, GRPO(aggregation="token"), drawn), rtol=0, atol=1e-12
    )


def test_rewarding_only_the_right_and_penalising_only_the_wrong_differ_in_their_noise() -> None:
    # one response: E|A score|^2 - |mean|^2, so the noise is that of the rewarded or penalised side
    one, scores = steps((0,), 1), WORLD.jacobian.reshape(PROMPTS, len(RESPONSES), LIMIT, -1)[0].sum(1) / LIMIT
    chances, rewards = WORLD.probabilities()[0].detach(), WORLD.rewards[0]
    mean = WORLD.gradient(WORLD.pass_rates()[0]) / LIMIT
    noise = {}
    for algorithm, side in ((PSR, rewards), (NSR, 1 - rewards)):
        drawn = ascents(WORLD, algorithm, one)
        torch.testing.assert_close(one.mean(drawn), mean, rtol=0, atol=1e-12)
        noise[algorithm] = one.variance(drawn)
        expected = chances * side @ scores.square().sum(1) - mean.square().sum()
        assert noise[algorithm] == pytest.approx(float(expected))
    assert max(noise.values()) > 1.2 * min(noise.values())


def test_where_the_policy_is_nearly_always_right_the_penalty_is_the_quieter_one_and_else_the_reward() -> None:
    # right: everything that stops. The reward's noise lives on p, the penalty's on 1 - p
    everything = [tuple(range(7)), tuple(range(7))]
    for stop, quiet, loud in ((5.0, NSR, PSR), (-5.0, PSR, NSR)):
        skewed = world(right=everything, stop=stop)
        one = every_step(skewed, (0,), 1)
        assert (skewed.pass_rates()[0].item() > 0.95) is (stop > 0)
        assert (skewed.pass_rates()[0].item() < 0.05) is (stop < 0)
        low, high = (one.variance(ascents(skewed, algorithm, one)) for algorithm in (quiet, loud))
        assert 0 < low < 0.5 * high


def test_a_perfect_policy_is_left_alone_by_the_penalty_and_by_baselines_but_not_by_the_reward() -> None:
    # all rewards 1: NSR, RLOO and GRPO have nothing to say in any step; PSR pulls towards whatever was drawn
    perfect, drawn = torch.ones(PROMPTS, len(RESPONSES), dtype=torch.float64), steps((0,), 2)
    for algorithm in (NSR, RLOO(), GRPO()):
        assert not ascents(WORLD, algorithm, drawn, rewards=perfect).any()
    pulls = ascents(WORLD, PSR, drawn, rewards=perfect)
    torch.testing.assert_close(drawn.mean(pulls), torch.zeros_like(GRADIENT), rtol=0, atol=1e-12)
    assert drawn.variance(pulls) > 0.05


def test_the_baseline_buys_less_noise_for_the_same_mean() -> None:
    # against rewards far from 0, where REINFORCE without a baseline is noise above all
    drawn = steps((0,), 2)
    high = WORLD.rewards + 3
    with_baseline, without = (ascents(WORLD, a, drawn, rewards=high) for a in (RLOO(), PSR))
    torch.testing.assert_close(drawn.mean(with_baseline), drawn.mean(without), rtol=0, atol=1e-12)
    assert drawn.variance(with_baseline) < 0.2 * drawn.variance(without)


def test_a_mean_over_each_response_breaks_the_identity_by_the_gradient_of_the_mean_inverse_length() -> None:
    # E[f(o) score] = grad E[f]: with weights 1/|o| PSR climbs E[r/|o|] and NSR E[(r-1)/|o|], which are not one
    inverse = 1 / LENGTHS.double()
    climbed = []
    for right, wrong in ((1, 0), (0, 1)):
        paid = (right * WORLD.rewards - wrong * (1 - WORLD.rewards)) * inverse
        exact = WORLD.gradient((WORLD.probabilities() * paid).sum(-1).mean())
        ascent = expected(Signed(right=right, wrong=wrong, aggregation="sequence"), 1)
        torch.testing.assert_close(ascent, exact, rtol=0, atol=1e-12)
        climbed.append(ascent)
    gap = WORLD.gradient((WORLD.probabilities() * inverse).sum(-1).mean())
    torch.testing.assert_close(climbed[0] - climbed[1], gap, rtol=0, atol=1e-12)
    assert gap.norm() > 0.2 * climbed[0].norm()
    assert cosine(*climbed) < 0.95
    # where all are wrong, the penalty does not stay on the spot: it climbs the mean length instead
    hopeless, drawn = torch.zeros_like(WORLD.rewards), steps((1,), 1)
    fled = drawn.mean(ascents(WORLD, Signed(right=0, wrong=1, aggregation="sequence"), drawn, rewards=hopeless))
    longer = WORLD.gradient((WORLD.probabilities() * LENGTHS).sum(-1)[1])
    assert cosine(fled, longer) > 0.8
    still = drawn.mean(ascents(WORLD, NSR, drawn, rewards=hopeless))
    torch.testing.assert_close(still, torch.zeros_like(GRADIENT), rtol=0, atol=1e-12)

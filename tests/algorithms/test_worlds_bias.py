"""What the algorithms climb instead of the pass rate, each bias with its formula; all expectations are exact."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import asin, sqrt
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from latentpad.algorithms import token_weights
from latentpad.algorithms.dapo import DAPO
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from latentpad.algorithms.rloo import RLOO
from latentpad.algorithms.signed import Signed
from tests.algorithms.world import (
    LENGTHS,
    LIMIT,
    PROMPTS,
    RESPONSES,
    Steps,
    advantages_of,
    ascents,
    cosine,
    every_step,
    reward_weights,
    world,
)

if TYPE_CHECKING:
    from latentpad.algorithms import GroupAlgorithm

WORLD = world()
RATES = WORLD.pass_rates().tolist()
RATE_GRADIENTS = torch.stack([WORLD.gradient(WORLD.pass_rates()[x]) for x in range(PROMPTS)])
GRADIENT = RATE_GRADIENTS.mean(0)
CHANCES = WORLD.probabilities().detach()
SCORES = WORLD.jacobian.reshape(PROMPTS, len(RESPONSES), LIMIT, -1).sum(2)


@cache
def steps(prompts: tuple[int, ...], group_size: int) -> Steps:
    return every_step(WORLD, prompts, group_size)


def live_chance(rate: float, group_size: int) -> float:
    return 1 - rate**group_size - (1 - rate) ** group_size


# Dividing by the standard deviation.


@pytest.mark.parametrize(
    ("algorithm", "prompts", "group_size"),
    [(GRPO(aggregation="constant"), (0,), 4), (GRPO("batch", aggregation="constant"), (0, 1), 2)],
    ids=["by group", "by step"],
)
def test_the_weight_of_a_prompt_is_a_sum_over_binomial_counts(
    algorithm: GroupAlgorithm, prompts: tuple[int, ...], group_size: int
) -> None:
    # what lets the tests below look at large groups: see reward_weights
    drawn = steps(prompts, group_size)
    weights = torch.tensor(reward_weights(algorithm, [RATES[x] for x in prompts], group_size), dtype=torch.float64)
    expected = weights @ RATE_GRADIENTS[list(prompts)] / len(prompts) / LIMIT
    torch.testing.assert_close(drawn.mean(ascents(WORLD, algorithm, drawn)), expected, rtol=0, atol=1e-12)


def test_dividing_by_the_standard_deviation_favours_prompts_that_are_seldom_or_nearly_always_solved() -> None:
    # k/G A_right = (G - 1)/G std(k), so w(p) = (G - 1)/G E[std] / (p (1 - p)), and std -> sqrt(p (1 - p)): f = 2 arcsin
    # sqrt p (literature 3.0). At G = 4 it is on its way from the constant weight that pairs have
    for rate in (0.1, 0.5, 0.8):
        weights = {size: reward_weights(GRPO(), [rate], size)[0] for size in (2, 4, 16, 256)}
        limit = 1 / sqrt(rate * (1 - rate))
        assert weights[2] == pytest.approx(sqrt(0.5), rel=1e-3)
        assert weights[256] == pytest.approx(limit, rel=0.02)
        gaps = [abs(weight - limit) for weight in weights.values()]
        assert gaps == sorted(gaps, reverse=True)
        slope = (2 * asin(sqrt(rate + 1e-6)) - 2 * asin(sqrt(rate - 1e-6))) / 2e-6
        assert slope == pytest.approx(limit, rel=1e-6)
    assert reward_weights(GRPO(), [0.1], 256)[0] > 1.6 * reward_weights(GRPO(), [0.5], 256)[0]
    for size in (2, 4, 16):
        assert reward_weights(RLOO(), [0.1, 0.5], size) == pytest.approx([1, 1])


def test_so_group_scaled_advantages_do_not_climb_the_pass_rate() -> None:
    # two prompts of pass rates 0.1 and 0.5: the rare one weighs (0.5 / 0.3) times as much as it should
    heavy, light = (reward_weights(GRPO(), [rate], 256)[0] for rate in RATES)
    assert RATES[0] < 0.11 < 0.49 < RATES[1] < 0.51
    assert heavy / light == pytest.approx(sqrt(RATES[1] * (1 - RATES[1]) / RATES[0] / (1 - RATES[0])), rel=0.02)
    climbed = (heavy * RATE_GRADIENTS[0] + light * RATE_GRADIENTS[1]) / 2
    angles = (2 * WORLD.pass_rates().sqrt().asin()).mean()
    assert cosine(climbed, WORLD.gradient(angles)) > 0.9999
    assert cosine(climbed, GRADIENT) < 0.99


# Dividing by lengths.


def test_a_mean_over_each_response_climbs_the_reward_per_token_above_the_baseline() -> None:
    # (G - 1)/G E[(r - b)/|o| score], b the mean of the others, of mean p: grad E[r/|o|] - p grad E[1/|o|]
    drawn = steps((0,), 3)
    inverse = 1 / LENGTHS.double()
    per_token = (WORLD.probabilities() * WORLD.rewards * inverse).sum(-1)
    per_length = (WORLD.probabilities() * inverse).sum(-1)
    exact = WORLD.gradient((per_token - WORLD.pass_rates().detach() * per_length)[0]) * 2 / 3
    ascent = drawn.mean(ascents(WORLD, GRPO("none", aggregation="sequence"), drawn))
    torch.testing.assert_close(ascent, exact, rtol=0, atol=1e-12)
    assert cosine(ascent, RATE_GRADIENTS[0]) < 0.99


def test_a_mean_over_the_tokens_of_a_small_step_breaks_the_identity_of_reward_and_penalty() -> None:
    # 1/N is a function f of the whole step: sum r score/N - sum (r - 1) score/N = f times the step's score, whose
    # mean is grad E[f]; at one rollout a step this is the mean over each response
    for size in (1, 2):
        drawn = steps((0,), size)
        reward, penalty = (
            drawn.mean(ascents(WORLD, Signed(right=x, wrong=1 - x, aggregation="token"), drawn)) for x in (1, 0)
        )
        chances = WORLD.probabilities()[0][drawn.responses[:, 0]].prod(-1)
        gap = WORLD.gradient((chances / LENGTHS[drawn.responses[:, 0]].sum(-1)).sum())
        torch.testing.assert_close(reward - penalty, gap, rtol=0, atol=1e-12)
        assert gap.norm() > 0.2 * reward.norm()


def total_length_chances(rollouts: int, prompt: int) -> list[float]:
    """The chance of each total length, by convolution."""
    one = [float(CHANCES[prompt][length == LENGTHS].sum()) for length in range(LIMIT + 1)]
    chances = [1.0]
    for _ in range(rollouts):
        spread = [0.0] * (len(chances) + LIMIT)
        for total, chance in enumerate(chances):
            for length, more in enumerate(one):
                spread[total + length] += chance * more
        chances = spread
    return chances


def mean_over_tokens(rollouts: int, prompt: int) -> Tensor:
    """[D] the expected ascent of PSR with `token` aggregation: B E[r score / (|o| + length of the rest)]."""
    rest = total_length_chances(rollouts - 1, prompt)
    weights = torch.tensor(
        [sum(c * token_weights("token", [n, m], LIMIT)[0] for m, c in enumerate(rest)) for n in LENGTHS.tolist()],
        dtype=torch.float64,
    )
    return rollouts * (CHANCES[prompt] * WORLD.rewards[prompt] * weights) @ SCORES[prompt]


def test_a_mean_over_tokens_is_a_ratio_whose_bias_falls_with_the_rollouts_of_the_step() -> None:
    # (sum r score) / (sum lengths) tends to grad p / E[length]; as of any ratio of means, the bias is of order 1/B
    drawn = steps((1,), 2)
    enumerated = drawn.mean(ascents(WORLD, Signed(right=1, wrong=0, aggregation="token"), drawn))
    torch.testing.assert_close(mean_over_tokens(2, 1), enumerated, rtol=0, atol=1e-12)
    limit = RATE_GRADIENTS[1] / (CHANCES[1] @ LENGTHS.double())
    gaps = [float((mean_over_tokens(size, 1) - limit).norm() / limit.norm()) for size in (1, 2, 4, 8, 16, 32)]
    assert gaps[0] > 0.2
    for wide, narrow in pairwise(gaps):
        assert narrow == pytest.approx(wide / 2, rel=0.06)
    assert gaps[-1] < 0.01


# Whitening over the whole step.


def whitened(rollouts: int) -> Tensor:
    """[D] the expected ascent of REINFORCE++, half of the rollouts for each prompt.

    Its advantages see of the rest of the step only how many tokens it has and how many of them are in right responses.
    """
    kinds = [(r, n) for r in (0, 1) for n in (1, 2, 3)]
    chances = [
        {(r, n): float(CHANCES[x][(WORLD.rewards[x] == r) & (n == LENGTHS)].sum()) for r, n in kinds}
        for x in range(PROMPTS)
    ]
    ascent = torch.zeros_like(GRADIENT)
    for prompt in range(PROMPTS):
        rest = {(0, 0): 1.0}
        for x in [prompt] * (rollouts // 2 - 1) + [1 - prompt] * (rollouts // 2):
            spread: dict[tuple[int, int], float] = {}
            for (wrong, right), chance in rest.items():
                for (r, n), more in chances[x].items():
                    key = (wrong + n * (1 - r), right + n * r)
                    spread[key] = spread.get(key, 0.0) + chance * more
            rest = spread
        for r, n in kinds:
            mean = 0.0
            for (wrong, right), chance in rest.items():
                row = ReinforcePlusPlus().advantages([[r, 0, 1]], [[n, wrong, right]])[0]
                mean += chance * row[0] / (n + wrong + right)
            alike = (WORLD.rewards[prompt] == r) & (n == LENGTHS)
            ascent += rollouts / 2 * mean * (CHANCES[prompt] * alike) @ SCORES[prompt]
    return ascent


@pytest.mark.parametrize("group_size", [1, 2])
def test_whitening_over_the_step_agrees_with_the_enumeration(group_size: int) -> None:
    drawn = steps((0, 1), group_size)
    enumerated = drawn.mean(ascents(WORLD, ReinforcePlusPlus(), drawn))
    torch.testing.assert_close(whitened(2 * group_size), enumerated, rtol=0, atol=1e-12)


def test_whitening_over_the_step_is_biased_and_the_bias_vanishes_as_the_step_grows() -> None:
    # mean and std depend on the rollout itself, by 1/B; in the limit they are constants, and (r - mean) / std climbs p
    gaps = []
    for rollouts in (2, 4, 8, 16):
        ascent = whitened(rollouts)
        gaps.append(float((ascent / ascent.norm() - GRADIENT / GRADIENT.norm()).norm()))
    assert gaps[0] > 0.05
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[3] < 0.6 * gaps[2] < 0.36 * gaps[1]


# Dropping groups without a signal.


def test_a_dead_group_adds_nothing_so_dropping_it_only_changes_what_the_sum_is_divided_by() -> None:
    drawn = steps((0,), 4)
    earned = WORLD.rewards[0][drawn.responses[:, 0]].sum(-1)
    dead = (earned == 0) | (earned == 4)
    for algorithm in (DAPO(), RLOO()):
        quiet = (advantages_of(algorithm, drawn, WORLD.rewards) == 0).all(-1).all(-1)
        assert torch.equal(quiet, dead)
    assert float(drawn.probabilities[~dead].sum()) == pytest.approx(live_chance(RATES[0], 4))


def test_a_prompt_sampled_until_its_group_is_live_weighs_more_by_the_inverse_of_that_chance() -> None:
    # E[ascent | live] = E[ascent] / P(live). Pairs: RLOO then has the weight 1 / (2 p (1 - p)), that of log odds
    for prompt, rate in enumerate(RATES):
        drawn = steps((prompt,), 2)
        climbed = ascents(WORLD, RLOO(), drawn)
        live = advantages_of(RLOO(), drawn, WORLD.rewards).abs().sum((1, 2)) > 0
        given_live = drawn.probabilities[live] @ climbed[live] / drawn.probabilities[live].sum()
        odds = WORLD.gradient(WORLD.pass_rates()[prompt].logit())
        torch.testing.assert_close(given_live, odds / 2 / LIMIT, rtol=0, atol=1e-12)
        assert float(live.double() @ drawn.probabilities) == pytest.approx(2 * rate * (1 - rate))
    # DAPO, as GRPO (2 arcsin sqrt p) restricted to 0 < p_hat < 1: at G = 16 the rare prompt weighs still more
    plain, restricted = (
        [reward_weights(DAPO(), [rate], 16)[0] / chance for rate, chance in zip(RATES, chances, strict=True)]
        for chances in ((1, 1), [live_chance(rate, 16) for rate in RATES])
    )
    assert restricted[0] / restricted[1] > 1.15 * plain[0] / plain[1]


def test_a_step_that_drops_dead_groups_is_biased_by_who_else_is_alive() -> None:
    # two groups, the ascent averaged over the live ones: prompt x gets E[v_x] (P(other live) / 2 + P(other dead)), and
    # the other's chance is not its own. Both tend to the same divisor in a large step: the bias is that of a ratio
    alone = [steps((x,), 2) for x in range(PROMPTS)]
    climbed = [ascents(WORLD, RLOO(), drawn) for drawn in alone]
    live = [(advantages_of(RLOO(), drawn, WORLD.rewards) != 0).any(-1).squeeze(-1).double() for drawn in alone]
    chances = alone[0].probabilities[:, None] * alone[1].probabilities
    each = chances / (live[0][:, None] + live[1]).clamp(min=1)
    ascent = each.sum(1) @ climbed[0] + each.sum(0) @ climbed[1]
    alive = [live_chance(rate, 2) for rate in RATES]
    weights = [1 - alive[1] / 2, 1 - alive[0] / 2]
    expected = (weights[0] * RATE_GRADIENTS[0] + weights[1] * RATE_GRADIENTS[1]) / LIMIT
    torch.testing.assert_close(ascent, expected, rtol=0, atol=1e-12)
    assert weights[1] / weights[0] > 1.15
    kept = chances.sum(1) @ climbed[0] / 2 + chances.sum(0) @ climbed[1] / 2
    torch.testing.assert_close(kept, GRADIENT / LIMIT, rtol=0, atol=1e-12)

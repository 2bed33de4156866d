"""GRPO's family: the numbers of each worked by hand, and what holds for all of them."""

from __future__ import annotations

from itertools import product
from math import exp, inf, log, nan, sqrt
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentpad.algorithms import (
    ALGORITHMS,
    CriticAlgorithm,
    GroupAlgorithm,
    Needs,
    build_algorithm,
)
from latentpad.algorithms.cispo import CISPO
from latentpad.algorithms.dapo import DAPO, overlong_penalty
from latentpad.algorithms.dr_grpo import DrGRPO
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.gspo import GSPO
from latentpad.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from latentpad.algorithms.rloo import RLOO
from latentpad.algorithms.signed import Signed
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.types import TokenLoss

NAMES = ["grpo", "dr_grpo", "rloo", "reinforce_plus_plus", "dapo", "gspo", "cispo", "signed"]
BASELINED: list[GroupAlgorithm] = [GRPO(), DrGRPO(), RLOO(), DAPO(), GSPO(), CISPO()]  # by the mean of the group
WHITENED: list[GroupAlgorithm] = [ReinforcePlusPlus(), ReinforcePlusPlus(baseline=True)]
FAMILY: list[GroupAlgorithm] = [
    *BASELINED,
    *WHITENED,
    Signed(),
    Signed(right=0.1),
    Signed(right=0.0),
    Signed(wrong=0.0),
]
# Ranges that clip some rows of `batch(spread=0.5)` and not others; a mean over a response moves less than its tokens.
CLIPPING: list[GroupAlgorithm] = [
    *(cls(clip_low=0.3, clip_high=0.4) for cls in (GRPO, DrGRPO, RLOO, DAPO, CISPO, ReinforcePlusPlus, Signed)),
    GSPO(clip_low=0.05, clip_high=0.05),
]
over_family = pytest.mark.parametrize("algorithm", FAMILY, ids=repr)
over_clipping = pytest.mark.parametrize("algorithm", CLIPPING, ids=repr)

Step = tuple[list[list[float]], list[list[int]]]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Rewards from 0 to 1 and lengths, by group."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    reward, length = st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(1, 9)
    return [[draw(reward) for _ in range(n)] for n in sizes], [[draw(length) for _ in range(n)] for n in sizes]


def ones(rewards: list[list[float]]) -> list[list[int]]:
    return [[1] * len(group) for group in rewards]


def flat(rows: list[list[Any]]) -> list[Any]:
    return [value for row in rows for value in row]


# Advantages


def test_dr_grpo_leaves_the_deviations() -> None:
    assert DrGRPO().advantages([[1, 0, 0, 0], [1, 1, 1, 0]], [[1] * 4] * 2) == [
        [0.75, -0.25, -0.25, -0.25],
        [0.25, 0.25, 0.25, -0.75],
    ]


def test_rloo_compares_with_the_others() -> None:
    # 1 0 0: others' means 0, 1/2, 1/2. 1 1 0: 1/2, 1/2, 1
    assert RLOO().advantages([[1, 0, 0], [1, 1, 0]], [[1] * 3] * 2) == [
        pytest.approx([1.0, -0.5, -0.5]),
        pytest.approx([0.5, 0.5, -1.0]),
    ]


@given(step=steps())
def test_rloo_is_the_reward_less_the_mean_of_the_others(step: Step) -> None:
    for group, row in zip(step[0], RLOO().advantages(*step), strict=True):
        others = [(sum(group) - reward) / (len(group) - 1) for reward in group]
        assert row == pytest.approx([r - mean for r, mean in zip(group, others, strict=True)], abs=1e-12)


def test_reinforce_plus_plus_counts_every_token() -> None:
    # 1 for one token, 0 for three: mean 1/4, variance (9/16 + 3 * 1/16) / 4 = 3/16, std sqrt(3) / 4
    spread = sqrt(3) / 4 + 1e-4
    assert ReinforcePlusPlus().advantages([[1, 0]], [[1, 3]]) == [pytest.approx([0.75 / spread, -0.25 / spread])]


def test_reinforce_plus_plus_looks_across_groups() -> None:
    # 1 1 | 0 0 with equal lengths: mean 1/2, std 1/2. Every group is of equal rewards, and yet there is a signal
    assert ReinforcePlusPlus().advantages([[1, 1], [0, 0]], [[2, 2], [2, 2]]) == [
        pytest.approx([0.5 / 0.5001, 0.5 / 0.5001]),
        pytest.approx([-0.5 / 0.5001, -0.5 / 0.5001]),
    ]


def test_reinforce_plus_plus_with_a_baseline_centres_groups_then_tokens() -> None:
    # centred 1/2 -1/2 | 0 0 over 1 3 | 2 2 tokens: mean (1/2 - 3/2) / 8 = -1/8; deviations 5/8, 3 times -3/8, 4 times
    # 1/8; variance (25 + 27 + 4) / 64 / 8 = 7/64, std sqrt(7) / 8
    spread = sqrt(7) / 8 + 1e-4
    assert ReinforcePlusPlus(baseline=True).advantages([[1, 0], [1, 1]], [[1, 3], [2, 2]]) == [
        pytest.approx([0.625 / spread, -0.375 / spread]),
        pytest.approx([0.125 / spread, 0.125 / spread]),
    ]


@pytest.mark.parametrize("algorithm", WHITENED, ids=repr)
@settings(deadline=None)
@given(step=steps())
def test_reinforce_plus_plus_is_whitening_over_tokens(algorithm: ReinforcePlusPlus, step: Step) -> None:
    rewards, lengths = step
    rows = [[r - sum(row) / len(row) for r in row] for row in rewards] if algorithm.baseline else rewards
    counts = torch.tensor(flat(lengths))
    tokens = torch.tensor(flat(rows), dtype=torch.float64).repeat_interleave(counts)
    expected = (tokens - tokens.mean()) / (tokens.std(correction=0) + 1e-4)
    ours = torch.tensor(flat(algorithm.advantages(rewards, lengths)), dtype=torch.float64).repeat_interleave(counts)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@given(step=steps(), shift=st.floats(-2, 2))
def test_reinforce_plus_plus_does_not_see_a_constant_added_to_all_rewards(step: Step, shift: float) -> None:
    rewards, lengths = step
    shifted = ReinforcePlusPlus().advantages([[r + shift for r in group] for group in rewards], lengths)
    assert flat(shifted) == pytest.approx(flat(ReinforcePlusPlus().advantages(rewards, lengths)), abs=1e-9)


@given(step=steps(), shifts=st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_with_a_baseline_it_does_not_see_how_hard_a_question_is(step: Step, shifts: list[float]) -> None:
    algorithm, (rewards, lengths) = ReinforcePlusPlus(baseline=True), step
    shifted = [[r + shift for r in group] for group, shift in zip(rewards, shifts, strict=False)]
    assert flat(algorithm.advantages(shifted, lengths)) == pytest.approx(
        flat(algorithm.advantages(rewards, lengths)), abs=1e-9
    )


@pytest.mark.parametrize("algorithm", [DAPO(), GSPO(), CISPO()], ids=repr)
@given(step=steps())
def test_dapo_gspo_and_cispo_have_the_advantages_of_grpo(algorithm: GroupAlgorithm, step: Step) -> None:
    assert algorithm.advantages(*step) == GRPO().advantages(*step)


@pytest.mark.parametrize(
    ("options", "advantages"),
    [
        ({}, [1.0, -1.0, 0.5 - 0.5]),
        ({"wrong": 0.0}, [1.0, 0.0, 0.5]),  # PSR
        ({"right": 0.0}, [0.0, -1.0, -0.5]),  # NSR
        ({"right": 0.1}, [0.1, -1.0, 0.1 * 0.5 - 0.5]),  # W-REINFORCE
        ({"right": 2.0, "wrong": 3.0}, [2.0, -3.0, 1.0 - 1.5]),
    ],
)
def test_signed_pays_right_and_charges_wrong(options: dict[str, float], advantages: list[float]) -> None:
    assert Signed(**options).advantages([[1, 0], [0.5]], [[1, 2], [3]]) == [advantages[:2], advantages[2:]]


@over_family
@settings(max_examples=40)
@given(step=steps(), data=st.data())
def test_the_order_of_groups_and_of_rollouts_does_not_matter(
    algorithm: GroupAlgorithm, step: Step, data: st.DataObject
) -> None:
    rewards, lengths = step
    groups = data.draw(st.permutations(range(len(rewards))))
    inside = [data.draw(st.permutations(range(len(row)))) for row in rewards]

    def mix(rows: list[list[Any]]) -> list[list[Any]]:
        return [[rows[g][i] for i in inside[g]] for g in groups]

    straight = algorithm.advantages(rewards, lengths)
    mixed = algorithm.advantages(mix(rewards), mix(lengths))
    assert mixed == [pytest.approx(row, abs=1e-12) for row in mix(straight)]


@pytest.mark.parametrize("algorithm", BASELINED, ids=repr)
@given(step=steps())
def test_advantages_of_a_group_sum_to_zero(algorithm: GroupAlgorithm, step: Step) -> None:
    for row in algorithm.advantages(*step):
        assert sum(row) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("algorithm", WHITENED, ids=repr)
@given(step=steps())
def test_whitened_advantages_of_all_tokens_sum_to_zero(algorithm: GroupAlgorithm, step: Step) -> None:
    weighted = [n * a for n, a in zip(flat(step[1]), flat(algorithm.advantages(*step)), strict=True)]
    assert sum(weighted) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("algorithm", BASELINED, ids=repr)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_a_group_of_equal_rewards_gets_exactly_nothing(algorithm: GroupAlgorithm, reward: float) -> None:
    assert algorithm.advantages([[reward] * 3, [0, 1, 0]], [[1, 2, 3]] * 2)[0] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("algorithm", [*BASELINED, *WHITENED], ids=repr)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1.0])
def test_a_step_of_equal_rewards_gets_exactly_nothing(algorithm: GroupAlgorithm, reward: float) -> None:
    assert algorithm.advantages([[reward] * 3] * 3, [[1, 2, 7], [3, 3, 3], [9, 1, 1]]) == [[0.0, 0.0, 0.0]] * 3


def test_dead_groups_of_different_rewards_get_nothing_with_a_baseline() -> None:
    rewards, lengths = [[1.0, 1.0], [0.0, 0.0]], [[1, 2], [3, 4]]
    assert ReinforcePlusPlus(baseline=True).advantages(rewards, lengths) == [[0.0, 0.0], [0.0, 0.0]]


@over_family
@settings(max_examples=40)
@given(step=steps())
def test_the_better_of_a_group_never_has_the_lower_advantage(algorithm: GroupAlgorithm, step: Step) -> None:
    for group, row in zip(step[0], algorithm.advantages(*step), strict=True):
        for (better, high), (worse, low) in product(zip(group, row, strict=True), repeat=2):
            assert better <= worse or high >= low


# Losses


def token_loss(algorithm: GroupAlgorithm, log_ratios: list[float], advantage: float, length: int = 99) -> TokenLoss:
    """One row whose logprobs lie so far above the sampler's, which are -1; padding from `length` on."""
    above = torch.tensor([log_ratios], dtype=torch.float64)
    return algorithm.token_loss(
        logprobs=above - 1,
        rollout_logprobs=-torch.ones_like(above),
        advantages=torch.full_like(above, advantage),
        mask=torch.arange(len(log_ratios)) < torch.tensor([[length]]),
    )


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "reinforce_plus_plus", "dapo", "signed"])
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.56, True),  # -min(3, 1.28 * 2)
        (0.5, 2.0, -1.0, False),
        (0.5, -2.0, 1.8, True),  # -min(-1, 0.9 * -2)
        (1.5, -2.0, 3.0, False),
    ],
)
def test_most_clip_token_by_token(name: str, ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    built = build_algorithm(Component(name=name, clip_low=0.1, clip_high=0.28))
    result = token_loss(built, [0.0, log(ratio)], advantage)
    assert result.loss.tolist() == [pytest.approx([-advantage, loss])]
    assert result.metrics["clip_fraction"].tolist() == [[0, clipped]]


@pytest.mark.parametrize(
    ("advantage", "loss", "clipped"),
    [
        (2.0, -2.2, True),  # the mean of 0.2 and 0.4 is 0.3: s = e^0.3 = 1.35, -min(2.7, 1.1 * 2)
        (-2.0, 2 * exp(0.3), False),  # -min(-2.7, 1.1 * -2)
    ],
)
def test_gspo_has_one_ratio_a_response(advantage: float, loss: float, clipped: bool) -> None:
    result = token_loss(GSPO(clip_low=0.1, clip_high=0.1), [0.2, 0.4, 9.0], advantage, length=2)
    assert result.loss[0, :2].tolist() == pytest.approx([loss, loss])
    assert result.metrics["clip_fraction"][0, :2].tolist() == [clipped, clipped]


def test_gspo_clips_what_grpo_would_not_and_the_other_way_round() -> None:
    # +0.5 and -0.5: the mean is 0, nothing is clipped. 0.01 and 0.01: a mean beyond 4e-4, all is clipped
    apart, close = [0.5, -0.5], [0.01, 0.01]
    assert token_loss(GSPO(), apart, 1.0).metrics["clip_fraction"].tolist() == [[0, 0]]
    assert token_loss(GRPO(), apart, 1.0).metrics["clip_fraction"].tolist() == [[1, 0]]
    assert token_loss(GSPO(), close, 1.0).metrics["clip_fraction"].tolist() == [[1, 1]]
    assert token_loss(GRPO(), close, 1.0).metrics["clip_fraction"].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("ratios", "advantage", "loss", "clipped"),
    [
        ([1.1, 1.05], 2.0, -1.155, False),  # s = 1.155, -min(2.31, 1.2 * 2), halved: two tokens
        ([1.1, 1.5], 2.0, -1.2, True),  # s = 1.65, -min(3.3, 1.2 * 2), halved
        ([0.5, 0.5], -2.0, 0.8, True),  # s = 1/4, -min(-0.5, 0.8 * -2), halved
        ([0.5, 2.0], 2.0, -1.0, False),  # s = 1
    ],
)
def test_rloo_has_the_ratio_of_the_response_and_its_tokens_share_the_loss(
    ratios: list[float], advantage: float, loss: float, clipped: bool
) -> None:
    result = token_loss(RLOO(), [*map(log, ratios), 9.0], advantage, length=2)
    assert result.loss[0, :2].tolist() == pytest.approx([loss, loss])
    assert result.metrics["clip_fraction"][0, :2].tolist() == [clipped, clipped]


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_response_far_from_its_sampler_has_a_finite_gradient_in_rloo(advantage: float) -> None:
    logprobs = torch.full((1, 10), 50.0, requires_grad=True)  # s would be e^500, infinite
    mask = torch.ones(1, 10, dtype=torch.bool)
    result = RLOO().token_loss(
        logprobs=logprobs, rollout_logprobs=torch.zeros(1, 10), advantages=advantage * mask, mask=mask
    )
    result.loss.sum().backward()
    assert logprobs.grad is not None
    assert torch.isfinite(result.loss).all()
    assert logprobs.grad.tolist() == [[0.0] * 10]


@pytest.mark.parametrize(("ratio", "weight"), [(1.0, 1.0), (6.0, 5.0), (0.01, 0.01)])  # at most 1 + 4, no lower bound
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_bounds_the_weight_and_never_drops_a_token(ratio: float, weight: float, advantage: float) -> None:
    logprobs = torch.tensor([[-0.5]], dtype=torch.float64, requires_grad=True)
    result = CISPO().token_loss(
        logprobs=logprobs,
        rollout_logprobs=logprobs.detach() - log(ratio),
        advantages=torch.tensor([[advantage]], dtype=torch.float64),
        mask=torch.tensor([[True]]),
    )
    result.loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-weight * advantage)
    assert result.loss.item() == pytest.approx(-weight * advantage * -0.5)
    assert result.metrics["clip_fraction"].item() == (weight != ratio)


def test_cispo_has_a_lower_bound_where_one_is_set() -> None:
    # logprob log 0.25 - 1; weight max(0.25, 1 - 0.4)
    assert token_loss(CISPO(clip_low=0.4), [log(0.25)], 2.0).loss.item() == pytest.approx(-0.6 * 2 * (log(0.25) - 1))


LENGTHS = [3, 1, 5, 4]


def batch(*, spread: float, seed: int = 0) -> dict[str, Tensor]:
    """Four responses of different lengths; `spread` moves the sampler's logprobs away from the policy's."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), 6)
    logprobs = -2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.1
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {
        "logprobs": logprobs,
        "rollout_logprobs": logprobs + spread * noise,
        "advantages": torch.tensor([[1.5], [-1.0], [-0.5], [0.75]], dtype=torch.float64).expand(shape).clone(),
        "mask": torch.arange(6) < torch.tensor(LENGTHS).unsqueeze(1),
    }


def loss_and_gradient(algorithm: GroupAlgorithm, tensors: dict[str, Tensor]) -> tuple[TokenLoss, Tensor]:
    """The losses, and the gradient of their masked sum by logprob."""
    logprobs = tensors["logprobs"].clone().requires_grad_()
    result = algorithm.token_loss(**(tensors | {"logprobs": logprobs}))
    result.loss[tensors["mask"]].sum().backward()
    assert logprobs.grad is not None
    return result, logprobs.grad


@over_family
def test_on_policy_every_one_is_the_policy_gradient(algorithm: GroupAlgorithm) -> None:
    tensors = batch(spread=0.0)
    result, gradient = loss_and_gradient(algorithm, tensors)
    torch.testing.assert_close(gradient, -tensors["advantages"] * tensors["mask"])
    assert not result.metrics["clip_fraction"][tensors["mask"]].any()


@over_clipping
@pytest.mark.parametrize("seed", range(5))
def test_off_policy_no_token_is_pushed_against_its_advantage(algorithm: GroupAlgorithm, seed: int) -> None:
    tensors = batch(spread=0.5, seed=seed)
    gradient = loss_and_gradient(algorithm, tensors)[1][tensors["mask"]]
    assert (gradient * tensors["advantages"][tensors["mask"]] <= 0).all()
    assert (gradient != 0).any()


@over_clipping
@pytest.mark.parametrize("poison", [nan, inf, -inf, 1e300])
def test_what_stands_at_padding_changes_nothing(algorithm: GroupAlgorithm, poison: float) -> None:
    tensors = batch(spread=0.5)
    mask = tensors["mask"]
    clean, gradient = loss_and_gradient(algorithm, tensors)
    spoilt = {name: t if name == "mask" else t.masked_fill(~mask, poison) for name, t in tensors.items()}
    other, other_gradient = loss_and_gradient(algorithm, spoilt)
    assert torch.equal(other.loss[mask], clean.loss[mask])
    assert torch.equal(other_gradient, gradient)
    assert not gradient[~mask].any()
    for name, values in clean.metrics.items():
        assert torch.equal(other.metrics[name][mask], values[mask])


@over_clipping
@pytest.mark.parametrize("name", ["logprobs", "rollout_logprobs", "advantages"])
def test_a_nan_in_one_input_alone_changes_nothing_at_padding(algorithm: GroupAlgorithm, name: str) -> None:
    tensors = batch(spread=0.5)
    gradient = loss_and_gradient(algorithm, tensors)[1]
    spoilt = tensors | {name: tensors[name].masked_fill(~tensors["mask"], nan)}
    assert torch.equal(loss_and_gradient(algorithm, spoilt)[1], gradient)


@over_clipping
def test_rows_alone_are_rows_together(algorithm: GroupAlgorithm) -> None:
    tensors = batch(spread=0.5)
    together, gradient = loss_and_gradient(algorithm, tensors)
    assert 0 < together.metrics["clip_fraction"][tensors["mask"]].mean() < 1
    for i, length in enumerate(LENGTHS):
        alone, own = loss_and_gradient(algorithm, {name: t[i : i + 1, :length] for name, t in tensors.items()})
        torch.testing.assert_close(alone.loss[0], together.loss[i, :length])
        torch.testing.assert_close(own[0], gradient[i, :length])
        for name, values in together.metrics.items():
            torch.testing.assert_close(alone.metrics[name][0], values[i, :length])


@over_clipping
def test_losses_and_metrics_are_one_a_token_and_metrics_have_no_gradient(algorithm: GroupAlgorithm) -> None:
    tensors = batch(spread=0.5)
    result = loss_and_gradient(algorithm, tensors)[0]
    assert result.loss.shape == tensors["mask"].shape
    assert [*result.metrics] == ["clip_fraction"]
    for values in result.metrics.values():
        assert values.shape == tensors["mask"].shape
        assert not values.requires_grad


# The price of length


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (95, -0.75), (100, -1.0), (101, -1.0)],  # limit 100, buffer 20
)
def test_overlong_penalty(length: int, penalty: float) -> None:
    assert overlong_penalty(length, limit=100, buffer=20) == pytest.approx(penalty)


@pytest.mark.parametrize("length", [1, 50, 100])
def test_no_buffer_costs_nothing(length: int) -> None:
    assert overlong_penalty(length, limit=100, buffer=0) == 0.0


@given(limit=st.integers(1, 200), data=st.data())
def test_overlong_penalty_falls_from_zero_to_minus_one(limit: int, data: st.DataObject) -> None:
    buffer = data.draw(st.integers(1, limit))
    penalties = [overlong_penalty(length, limit, buffer) for length in range(limit + 2)]
    assert penalties == sorted(penalties, reverse=True)
    assert (penalties[limit - buffer], penalties[limit]) == (0.0, -1.0)
    assert all(-1 <= penalty <= 0 for penalty in penalties)


# Options


@pytest.mark.parametrize(
    ("algorithm", "needs"),
    [
        (GRPO(), Needs("token")),
        (DrGRPO(), Needs("constant")),
        (RLOO(), Needs("constant")),
        (ReinforcePlusPlus(), Needs("token")),
        (DAPO(), Needs("token", sampling_rounds=3)),
        (DAPO(sampling_rounds=1, overlong_buffer=8), Needs("token", sampling_rounds=1, overlong_buffer=8)),
        (GSPO(), Needs("sequence")),
        (CISPO(), Needs("token")),
        (Signed(), Needs("constant")),
        (Signed(aggregation="sequence"), Needs("sequence")),
    ],
    ids=repr,
)
def test_what_each_asks_of_the_loop(algorithm: GroupAlgorithm, needs: Needs) -> None:
    assert algorithm.needs == needs


@pytest.mark.parametrize("name", NAMES)
def test_each_is_built_by_name_and_needs_no_critic(name: str) -> None:
    built = build_algorithm(Component(name=name))
    assert isinstance(built, GroupAlgorithm)
    assert not isinstance(built, CriticAlgorithm)


def test_the_whole_table_is_tested_here_but_ppo() -> None:
    assert sorted(NAMES) == sorted(set(ALGORITHMS) - {"ppo"})


@pytest.mark.parametrize(
    ("name", "options", "built"),
    [
        ("dr_grpo", {"clip_low": 0.1, "clip_high": 0.3}, DrGRPO(clip_low=0.1, clip_high=0.3)),
        ("rloo", {"clip_high": 0.5}, RLOO(clip_high=0.5)),
        ("reinforce_plus_plus", {"baseline": True}, ReinforcePlusPlus(baseline=True)),
        ("dapo", {"sampling_rounds": 5, "overlong_buffer": 16}, DAPO(sampling_rounds=5, overlong_buffer=16)),
        ("gspo", {"clip_low": 0.01}, GSPO(clip_low=0.01)),
        ("cispo", {"clip_high": 1.0}, CISPO(clip_high=1.0)),
        ("signed", {"right": 0.1, "aggregation": "token"}, Signed(right=0.1, aggregation="token")),
    ],
)
def test_options_reach_the_algorithm(name: str, options: dict[str, Any], built: GroupAlgorithm) -> None:
    assert build_algorithm(Component(name=name, **options)) == built


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"clip_low": 0.0}, "algorithm: clip_low 0.0"),
        ({"clip_low": 1.5}, "algorithm: clip_low 1.5"),
        ({"clip_high": -0.1}, "clip_high -0.1"),
        ({"clip_high": nan}, "clip_high nan"),
        ({"clip_high": "wide"}, r"algorithm\.clip_high: got 'wide'"),
        ({"clip_hgih": 0.3}, r"algorithm\.clip_hgih: unknown key of algorithm '\w+' 'clip_hgih'.*'clip_high'"),
    ],
)
def test_clipping_that_cannot_be_meant_is_refused_in_one_line(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line) as refusal:
        build_algorithm(Component(name=name, **options))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("dapo", {"sampling_rounds": 0}, "sampling_rounds 0: expected 1 or more"),
        ("dapo", {"sampling_rounds": 1.5}, r"algorithm\.sampling_rounds: got 1\.5"),
        ("dapo", {"overlong_buffer": -1}, "overlong_buffer -1: expected 0 or more"),
        ("signed", {"right": -0.1}, r"right -0\.1, wrong 1\.0: expected neither below 0"),
        ("signed", {"wrong": -1.0}, r"right 1\.0, wrong -1\.0: expected neither below 0"),
        ("signed", {"right": 0.0, "wrong": 0.0}, "not both 0"),
        ("signed", {"right": nan}, "right nan"),
        ("signed", {"wrong": nan}, "wrong nan"),
        ("signed", {"wrong": inf}, "wrong inf"),
        ("signed", {"aggregation": "mean"}, r"algorithm\.aggregation"),
        ("reinforce_plus_plus", {"baseline": "group"}, r"algorithm\.baseline: got 'group'"),
        ("rloo", {"scale": "group"}, r"algorithm\.scale: unknown key"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line) as refusal:
        build_algorithm(Component(name=name, **options))
    assert "\n" not in str(refusal.value)

"""GRPO's numbers, worked by hand."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentpad.algorithms import GroupAlgorithm, Needs, build_algorithm, token_weights
from latentpad.algorithms.grpo import GRPO
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component
from latentpad.types import TokenLoss

rewards = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6), min_size=1, max_size=4)


def advantages(algorithm: GRPO, rewards: list[list[float]]) -> list[list[float]]:
    """Of responses of one token each: GRPO does not look at lengths."""
    return algorithm.advantages(rewards, [[1] * len(group) for group in rewards])


def test_group_scale_divides_by_the_standard_deviation_of_the_group() -> None:
    # mean 1/4; deviations 3/4, -1/4, -1/4, -1/4; sum of squares 9/16 + 3/16 = 3/4; variance (3/4) / 3 = 1/4; std 1/2
    assert advantages(GRPO(), [[1, 0, 0, 0]])[0] == pytest.approx(
        [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]
    )


def test_group_scale_keeps_groups_apart() -> None:
    # each pair: deviations +-d, variance 2 d^2 / 1, std d sqrt(2): 1/2 and 1/4 become the same but for the 1e-4
    tall, flat = advantages(GRPO(), [[1, 0], [0.5, 0]])
    assert tall == pytest.approx([0.5 / (sqrt(0.5) + 1e-4), -0.5 / (sqrt(0.5) + 1e-4)])
    assert flat == pytest.approx([0.25 / (sqrt(0.125) + 1e-4), -0.25 / (sqrt(0.125) + 1e-4)])


def test_batch_scale_centres_by_group_and_divides_by_the_whole_batch() -> None:
    # rewards 1 0 | 1 1: group means 1/2 and 1; batch mean 3/4, squares 1/16 * 3 + 9/16 = 3/4, variance 1/4, std 1/2
    first, second = advantages(GRPO(scale="batch"), [[1, 0], [1, 1]])
    assert first == pytest.approx([0.5 / 0.5001, -0.5 / 0.5001])
    assert second == [0.0, 0.0]


def test_no_scale_leaves_the_deviations() -> None:
    assert advantages(GRPO(scale="none"), [[1, 0, 0, 1], [1, 1, 1, 0]]) == [
        [0.5, -0.5, -0.5, 0.5],
        [0.25, 0.25, 0.25, -0.75],
    ]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_of_equal_rewards_gets_nothing(scale: str) -> None:
    assert advantages(GRPO(scale=scale), [[1.0, 1.0], [0.0, 0.0]]) == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@given(rewards=rewards)
def test_advantages_sum_to_zero_in_every_group(scale: str, rewards: list[list[float]]) -> None:
    for row in advantages(GRPO(scale=scale), rewards):
        assert sum(row) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@given(rewards=rewards, data=st.data())
def test_the_order_of_groups_and_of_rollouts_does_not_matter(
    scale: str, rewards: list[list[float]], data: st.DataObject
) -> None:
    algorithm = GRPO(scale=scale)
    groups = data.draw(st.permutations(range(len(rewards))))
    inside = [data.draw(st.permutations(range(len(row)))) for row in rewards]
    straight = advantages(algorithm, rewards)
    mixed = advantages(algorithm, [[rewards[g][i] for i in inside[g]] for g in groups])
    assert mixed == [pytest.approx([straight[g][i] for i in inside[g]]) for g in groups]


def test_lengths_do_not_matter() -> None:
    rewards = [[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]]
    assert GRPO().advantages(rewards, [[7, 1, 3], [2, 9, 4]]) == advantages(GRPO(), rewards)


def token_loss(algorithm: GRPO, *, ratio: float, advantage: float) -> TokenLoss:
    """One token whose logprob is log(ratio) above the sampler's -1."""
    return algorithm.token_loss(
        logprobs=torch.tensor([[log(ratio) - 1]], dtype=torch.float64),
        rollout_logprobs=torch.tensor([[-1.0]], dtype=torch.float64),
        advantages=torch.tensor([[advantage]], dtype=torch.float64),
        mask=torch.tensor([[True]]),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),  # on policy: -A
        (1.1, 2.0, -2.2, False),  # inside: -1.1 * 2
        (1.5, 2.0, -2.56, True),  # raised too far already: -min(3, 1.28 * 2)
        (0.5, 2.0, -1.0, False),  # below, but A > 0: -min(1, 0.9 * 2), the ratio itself
        (0.5, -2.0, 1.8, True),  # lowered too far already: -min(-1, 0.9 * -2)
        (1.5, -2.0, 3.0, False),  # above, but A < 0: -min(-3, 1.28 * -2)
        (1.5, 0.0, 0.0, False),
    ],
)
def test_the_ratio_is_clipped_on_the_side_that_goes_too_far(
    ratio: float, advantage: float, loss: float, clipped: bool
) -> None:
    result = token_loss(GRPO(clip_low=0.1, clip_high=0.28), ratio=ratio, advantage=advantage)
    assert result.loss.item() == pytest.approx(loss)
    assert result.metrics["clip_fraction"].item() == clipped


def test_a_clipped_token_has_no_gradient_and_others_pull_towards_their_advantage() -> None:
    logprobs = torch.tensor([[0.0, 0.5, 0.0, -0.5]], dtype=torch.float64, requires_grad=True)
    result = GRPO().token_loss(
        logprobs=logprobs,
        rollout_logprobs=torch.zeros(1, 4, dtype=torch.float64),
        advantages=torch.tensor([[2.0, 2.0, -2.0, -2.0]], dtype=torch.float64),
        mask=torch.ones(1, 4, dtype=torch.bool),
    )
    result.loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-2.0, 0.0, 2.0, 0.0]]


@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token", [1 / 6, 1 / 6, 1 / 6]),  # 1 + 2 + 3 tokens
        ("sequence", [1 / 3, 1 / 6, 1 / 9]),  # 3 rollouts
        ("constant", [1 / 24, 1 / 24, 1 / 24]),  # 3 rollouts of at most 8
    ],
)
def test_token_weights(aggregation: str, weights: list[float]) -> None:
    assert token_weights(aggregation, [1, 2, 3], 8) == pytest.approx(weights)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_token_and_sequence_weights_are_a_mean(aggregation: str) -> None:
    lengths = [1, 5, 2, 7]
    weights = token_weights(aggregation, lengths, 8)
    assert sum(n * w for n, w in zip(lengths, weights, strict=True)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"clip_low": 0.0}, "clip_low 0.0"),
        ({"clip_low": 1.5}, "clip_low 1.5"),
        ({"clip_high": 0.0}, "clip_high 0.0"),
        ({"kl_coef": 0.1}, r"algorithm\.kl_coef: unknown key of algorithm 'grpo' 'kl_coef'"),
        ({"scale": "groups"}, r"algorithm\.scale"),
        ({"aggregation": "mean"}, r"algorithm\.aggregation"),
        ({"clip": 0.2}, r"algorithm\.clip: unknown key of algorithm 'grpo' 'clip'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(options: dict[str, object], line: str) -> None:
    with pytest.raises(RecipeError, match=line) as refusal:
        build_algorithm(Component(name="grpo", **options))
    assert "\n" not in str(refusal.value)


def test_options_reach_the_algorithm() -> None:
    built = build_algorithm(Component(name="grpo", scale="none", clip_high=0.28, aggregation="constant"))
    assert built == GRPO(scale="none", clip_high=0.28, aggregation="constant")


def test_what_it_asks_of_the_loop() -> None:
    built = build_algorithm(Component(name="grpo", aggregation="sequence"))
    assert isinstance(built, GroupAlgorithm)
    assert built.needs == Needs("sequence", sampling_rounds=1, overlong_buffer=0)

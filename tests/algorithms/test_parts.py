"""What algorithms are made of: numbers worked by hand, and the means of KL estimates summed over a small alphabet."""

from __future__ import annotations

from math import exp, inf, log, nan, sqrt
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentpad.algorithms.parts import (
    centred,
    check_clip,
    clipped_surrogate,
    group_scaled,
    kl_estimate,
    token_ratio,
)
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

groups = st.lists(st.floats(-2, 2), min_size=2, max_size=6)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_centred_takes_the_mean_away() -> None:
    assert centred([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_equal_rewards_are_exactly_zero(reward: float, size: int) -> None:
    # 0.1 summed three times and divided by 3 need not be 0.1: the loop asks whether an advantage is 0
    assert centred([reward] * size) == [0.0] * size
    assert group_scaled([[reward] * size]) == [[0.0] * size]


def test_group_scaled_divides_by_the_deviation_of_each_group() -> None:
    # 1 0 0 0: mean 1/4, squares 9/16 + 3/16 = 3/4, variance (3/4) / 3 = 1/4, std 1/2. 0.5 0: +-1/4, std sqrt(1/8)
    tall, flat = group_scaled([[1, 0, 0, 0], [0.5, 0]])
    assert tall == pytest.approx([0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001])
    assert flat == pytest.approx([0.25 / (sqrt(0.125) + 1e-4), -0.25 / (sqrt(0.125) + 1e-4)])


@given(group=groups, shift=st.floats(-2, 2))
def test_a_constant_added_to_a_group_changes_nothing(group: list[float], shift: float) -> None:
    shifted = [reward + shift for reward in group]
    assert centred(shifted) == pytest.approx(centred(group), abs=1e-9)
    # what is lost in rounding, 1e-16, is divided by the 1e-4 at least
    assert group_scaled([shifted])[0] == pytest.approx(group_scaled([group])[0], abs=1e-9)


@given(group=groups)
def test_the_better_reward_has_the_higher_advantage(group: list[float]) -> None:
    advantages = group_scaled([group])[0]
    best, worst = group.index(max(group)), group.index(min(group))
    assert advantages[best] == max(advantages) >= 0 >= min(advantages) == advantages[worst]


@pytest.mark.parametrize(("low", "high"), [(1e-6, 1e-6), (1.0, 0.2), (0.2, 4.0), (0.2, inf)])
def test_clipping_ranges_that_can_be_meant(low: float, high: float) -> None:
    check_clip(low, high)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.2), (1.01, 0.2), (-0.2, 0.2), (0.2, 0.0), (0.2, -0.2), (nan, 0.2), (0.2, nan), (inf, 0.2)]
)
def test_clipping_ranges_that_cannot(low: float, high: float) -> None:
    with pytest.raises(RecipeError, match=f"clip_low {low}, clip_high {high}: expected 0 < clip_low <= 1"):
        check_clip(low, high)


def test_token_ratio_is_policy_over_sampler() -> None:
    ratio = token_ratio(row(-1.0, log(0.3)), row(-1.0, log(0.2)), torch.ones(1, 2, dtype=torch.bool))
    assert ratio.tolist() == [pytest.approx([1.0, 1.5])]


@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_token_ratio_is_one_outside_the_mask_and_no_gradient_flows_from_there(poison: float) -> None:
    logprobs = row(-1.0, poison).requires_grad_()
    ratio = token_ratio(logprobs, row(-1.5, poison), torch.tensor([[True, False]]))
    (ratio * row(3.0, poison)).sum().backward()
    assert ratio.tolist() == [pytest.approx([exp(0.5), 1.0])]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [pytest.approx([3 * exp(0.5), 0.0])]


@settings(deadline=None)
@given(ratio=st.floats(0.01, 10), advantage=st.floats(-3, 3), low=st.floats(0.01, 1), high=st.floats(0.01, 2))
def test_the_surrogate_is_pessimistic(ratio: float, advantage: float, low: float, high: float) -> None:
    result = clipped_surrogate(row(ratio), row(advantage), low, high)
    assert result.loss.item() >= -ratio * advantage - 1e-12
    inside = 1 - low < ratio < 1 + high
    assert not (inside and result.metrics["clip_fraction"].item())


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", 0.5, 1.0),  # policy -1, reference -1.5, d = -0.5: -d, and its slope in the policy's logprob
        ("k2", 0.125, 0.5),  # d^2 / 2, -d
        ("k3", exp(-0.5) - 0.5, 1 - exp(-0.5)),  # e^d - d - 1 = e^-0.5 + 0.5 - 1, 1 - e^d
    ],
)
def test_kl_estimates_of_a_token(estimator: str, value: float, slope: float) -> None:
    logprobs = row(-1.0).requires_grad_()
    estimate = kl_estimate(logprobs, row(-1.5), estimator)
    estimate.sum().backward()
    assert estimate.item() == pytest.approx(value)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_pull_the_policy_to_the_reference(estimator: str) -> None:
    logprobs = row(-1.0, -2.0).requires_grad_()
    kl_estimate(logprobs, row(-1.5, -1.5), estimator).sum().backward()
    assert logprobs.grad is not None
    above, below = logprobs.grad[0].tolist()
    assert above > 0 > below  # gradient descent: down where the policy is above, up where below


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_of_equal_logprobs_is_zero(estimator: str) -> None:
    assert kl_estimate(row(-1.0, -3.0), row(-1.0, -3.0), estimator).tolist() == [[0.0, 0.0]]


LOGITS, REFERENCE = [0.0, 1.0, -0.5, 0.3], row(0.4, -0.2, 0.1, 0.0).log_softmax(-1)


def expected(estimator: str) -> tuple[float, Tensor]:
    """Mean and mean gradient of the estimate over tokens that the policy samples, by summing over all of them."""
    logits = row(*LOGITS).requires_grad_()
    logprobs = logits.log_softmax(-1)
    mean = (logprobs.exp().detach() * kl_estimate(logprobs, REFERENCE, estimator)).sum()
    return mean.item(), torch.autograd.grad(mean, logits)[0]


def divergence(*, reverse: bool = False) -> tuple[float, Tensor]:
    """KL(policy || reference), or reversed, and its gradient."""
    logits = row(*LOGITS).requires_grad_()
    logprobs = logits.log_softmax(-1)
    first, second = (REFERENCE, logprobs) if reverse else (logprobs, REFERENCE)
    value = (first.exp() * (first - second)).sum()
    return value.item(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: str) -> None:
    assert expected(estimator)[0] == pytest.approx(divergence()[0])


def test_only_k2_has_the_gradient_of_the_divergence() -> None:
    torch.testing.assert_close(expected("k2")[1], divergence()[1])
    torch.testing.assert_close(expected("k3")[1], divergence(reverse=True)[1])
    torch.testing.assert_close(expected("k1")[1], torch.zeros(1, 4, dtype=torch.float64))
    assert not torch.allclose(divergence()[1], divergence(reverse=True)[1], rtol=0.05)

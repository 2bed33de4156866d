"""The KL coefficient is steered to the target, by hand-worked steps and in a closed loop."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpad.training.kl_control import KLControl


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (0.02, 0.5),  # on target
        (0.022, 0.505),  # 10% above: 1% up
        (0.018, 0.495),  # 10% below: 1% down
        (2.0, 0.51),  # far above: no more than 2% up
        (0.0, 0.49),  # far below: no more than 2% down
        (-0.5, 0.49),  # an estimate can be negative
    ],
)
def test_one_step_by_hand(kl: float, coef: float) -> None:
    control = KLControl(0.5, target=0.02)
    control.observe(kl)
    assert control.coef == pytest.approx(coef)


def test_steps_multiply() -> None:
    control = KLControl(1.0, target=0.1)
    for kl in (0.11, 1.0, 0.09):
        control.observe(kl)
    assert control.coef == pytest.approx(1.01 * 1.02 * 0.99)


def test_without_a_target_the_coefficient_stays() -> None:
    control = KLControl(0.3, target=None)
    control.observe(9.0)
    assert control.coef == 0.3


@pytest.mark.parametrize("first", [0.001, 0.1, 10.0])
def test_a_policy_that_moves_less_under_a_stronger_pull_comes_to_the_target(first: float) -> None:
    control = KLControl(first, target=0.01)
    for _ in range(600):
        control.observe(0.002 / control.coef)  # the target at 0.2
    assert control.coef == pytest.approx(0.2, rel=1e-3)


@given(
    kls=st.lists(st.floats(-1, 10), min_size=1, max_size=30),
    target=st.none() | st.floats(1e-4, 1.0),
    cut=st.integers(0, 30),
)
def test_going_on_from_a_checkpoint_changes_nothing(kls: list[float], target: float | None, cut: int) -> None:
    whole, before, after = (KLControl(0.1, target) for _ in range(3))
    for kl in kls:
        whole.observe(kl)
    for kl in kls[:cut]:
        before.observe(kl)
    after.load(json.loads(json.dumps(before.state())))
    for kl in kls[cut:]:
        after.observe(kl)
    assert after.coef == whole.coef > 0

"""Health calls out runs that go wrong before it is too late, and leaves those alone that go well."""

from __future__ import annotations

import json
import math
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpad.recipe.rl_schema import HealthSection
from latentpad.training.health import Alarm, Health

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def health(**options: Any) -> Health:
    return Health(HealthSection(**{"window": 2, "reward_drop": 0.5, "gradient_rise": 3.0, **options}))


def names(watcher: Health, values: Iterable[Mapping[str, float]], first: int = 1) -> list[list[str]]:
    """The names of the alarms told of at each step."""
    return [[alarm.name for alarm in watcher.observe(step, row)] for step, row in enumerate(values, first)]


def series(name: str, values: Sequence[float]) -> list[dict[str, float]]:
    return [{name: value} for value in values]


# Reward


def test_a_reward_that_falls_below_its_share_of_the_best_is_a_collapse() -> None:
    watcher = health()
    assert names(watcher, series("reward", [0.6, 1.0, 0.4, 0.4])) == [[]] * 4  # means .8, .7, .4: not below half
    assert watcher.observe(5, {"reward": 0.38}) == [
        Alarm(
            "reward_collapse",
            "step 5: the mean reward of the last 2 steps is 0.39, below 0.5 times its best, 0.8",
            severe=True,
        )
    ]


def test_one_lucky_step_is_no_best() -> None:
    assert names(health(window=4), series("reward", [0.4, 0.4, 0.4, 1.0] + [0.4] * 6)) == [[]] * 10


def test_noise_near_zero_is_no_collapse() -> None:
    assert names(health(), series("reward", [0.1, 0.09, 0.0, 0.0, 0.0])) == [[]] * 5
    assert names(health(), series("reward", [0.1, 0.1, 0.0, 0.0])) == [[], [], [], ["reward_collapse"]]


def test_a_new_frontier_makes_the_reward_fall_for_good_reason() -> None:
    steps = [{"reward": r, "frontier": f} for r, f in [(0.9, 0), (0.9, 0), (0.2, 1), (0.2, 1), (0.2, 1)]]
    watcher = health()
    assert names(watcher, steps) == [[]] * 5
    assert watcher.good
    fallen = [{"reward": 0.09, "frontier": 1.0}] * 2
    assert names(watcher, fallen) == [[], ["reward_collapse"]]  # judged by the new best, 0.2


# Gradient norm


def test_a_gradient_norm_far_above_its_median_alarms() -> None:
    watcher = health()
    steady = [1.0, 1.0, 2.0, 1.0, 1.0, 4.0]  # of the last two the geometric mean is 2, of those before the median is 1
    assert names(watcher, series("grad_norm", steady)) == [[]] * 6
    assert watcher.observe(7, {"grad_norm": 2.2}) == []  # the root of 8.8, 2.97, is not above 3
    assert watcher.observe(8, {"grad_norm": 11.0}) == [
        Alarm(
            "gradient_rise",
            "step 8: the gradient norm of the last 2 steps is 4.92 times its median before them, 1: above 3 times",
            severe=True,
        )
    ]


def test_a_gradient_norm_is_judged_once_twice_the_window_is_before_it() -> None:
    assert names(health(), series("grad_norm", [1.0] * 3 + [9.0] * 2)) == [[]] * 5
    assert names(health(), series("grad_norm", [1.0] * 4 + [9.0] * 2))[-1] == ["gradient_rise"]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_gradient_norm_is_judged_by_its_own_scale(scale: float) -> None:
    steps = series("grad_norm", [scale * norm for norm in [1.0] * 5 + [2.9] * 2 + [3.3]])
    assert names(health(), steps) == [[]] * 7 + [["gradient_rise"]]


def test_a_single_spike_of_the_gradient_norm_is_no_trouble() -> None:
    spike = [1.0] * 20 + [50.0] + [1.0] * 20
    assert names(health(window=5), series("grad_norm", spike)) == [[]] * 41


def test_steps_in_which_nothing_was_learned_are_left_out() -> None:
    learned = [1.0, 1.0, 1.0, 1.0, 2.5, 3.0]
    idle = [value for norm in learned for value in (0.0, norm, 0.0)]
    assert names(health(), series("grad_norm", idle)) == [[]] * 18
    assert names(health(), series("grad_norm", [*idle, 0.0, 9.0]))[-2:] == [[], ["gradient_rise"]]


# Not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_alarms_at_once_and_is_not_remembered(value: float) -> None:
    watcher = health()
    (alarm,) = watcher.observe(1, {"loss": value, "reward": value})
    assert alarm == Alarm("not_finite", f"step 1: loss is {value}, reward is {value}", severe=True)
    assert not watcher.good
    assert names(watcher, series("reward", [0.5, 0.5])) == [[], []]
    assert watcher.good


# Alarms that only warn


@pytest.mark.parametrize(
    ("metric", "fine", "bad", "name", "message"),
    [
        ("entropy", 0.002, 0.0016, "entropy", "entropy was 0.0018 nats a token over the last 2 steps, below 0.002"),
        (
            "live_groups",
            0.05,
            0.01,
            "live_groups",
            "3.0% of the groups taught anything over the last 2 steps, below 5.0%",
        ),
        ("truncated", 0.5, 0.7, "truncated", "60.0% of the responses were cut off over the last 2 steps, above 50.0%"),
    ],
)
def test_a_mean_beyond_its_bound_warns(metric: str, fine: float, bad: float, name: str, message: str) -> None:
    watcher = health()
    assert names(watcher, series(metric, [fine] * 3)) == [[]] * 3
    assert watcher.observe(4, {metric: bad}) == [Alarm(name, f"step 4: {message}", severe=False)]
    assert watcher.good


def test_scratchpads_that_fall_to_a_tenth_of_their_best_have_collapsed() -> None:
    watcher = health()
    assert names(watcher, series("scratchpad_tokens", [4.0, 6.0, 0.5, 0.5])) == [[]] * 4
    assert watcher.observe(5, {"scratchpad_tokens": 0.46}) == [
        Alarm(
            "scratchpad_collapse",
            "step 5: scratchpads had 0.48 tokens over the last 2 steps, where their best was 5",
            severe=False,
        )
    ]


def test_a_mismatch_of_one_step_suffices() -> None:
    watcher = health(window=9)
    assert watcher.observe(1, {"mismatch_kl": 0.001}) == []
    assert watcher.observe(2, {"mismatch_kl": 0.02}) == [
        Alarm("mismatch", "step 2: sampler and learner are 0.02 nats a token apart, above 0.001", severe=False)
    ]


def test_few_live_groups_are_success_where_the_reward_is_high() -> None:
    assert names(health(), [{"live_groups": 0.0, "reward": 0.97}] * 3) == [[]] * 3
    assert names(health(), [{"live_groups": 0.0, "reward": 0.6}] * 3) == [[], ["live_groups"], []]


def test_scratchpads_that_were_short_have_nothing_to_lose() -> None:
    assert names(health(), series("scratchpad_tokens", [4.9, 4.9, 0.0, 0.0])) == [[]] * 4


# When alarms are told


def test_a_warning_is_told_when_it_begins_and_again_only_after_it_ended() -> None:
    steps = series("mismatch_kl", [0.5, 0.5, 0.0, 0.5])
    assert names(health(), steps) == [["mismatch"], [], [], ["mismatch"]]


@pytest.mark.parametrize(("action", "again"), [("warn", []), ("stop", ["not_finite"]), ("roll_back", ["not_finite"])])
def test_a_severe_alarm_is_told_at_every_step_where_it_acts(action: str, again: list[str]) -> None:
    steps = series("loss", [math.nan, math.nan])
    assert names(health(action=action), steps) == [["not_finite"], again]


def test_absent_metrics_raise_no_alarm() -> None:
    watcher = health()
    assert names(watcher, [{}] * 9) == [[]] * 9
    assert watcher.good


def test_unknown_metrics_raise_no_alarm() -> None:
    assert names(health(), [{"explained_variance": -9.0, "response_tokens": 0.0}] * 9) == [[]] * 9


# What to roll back to


def test_a_checkpoint_is_good_while_the_reward_is_near_its_best() -> None:
    watcher = health()
    goods = []
    for step, reward in enumerate([0.1, 1.0, 1.0, 0.8, 0.78], 1):
        assert watcher.observe(step, {"reward": reward}) == []
        goods.append(watcher.good)
    assert goods == [False, True, True, True, False]  # means none, .55, 1, .9, .79 of a best of 1


def test_a_checkpoint_is_not_good_when_the_gradient_norm_is_half_the_way_to_an_alarm() -> None:
    watcher = health(gradient_rise=4.0)
    names(watcher, series("grad_norm", [1.0] * 5 + [3.0]))
    assert watcher.good  # it has risen to the root of 3
    assert watcher.observe(7, {"grad_norm": 2.0}) == []
    assert not watcher.good  # to that of 6, and half the way is 2


def test_noise_near_zero_is_good() -> None:
    watcher = health()
    names(watcher, series("reward", [0.05, 0.05, 0.0, 0.0]))
    assert watcher.good


def test_a_run_that_collapsed_is_not_good_until_it_recovers() -> None:
    watcher = health()
    names(watcher, series("reward", [0.8, 0.8, 0.0, 0.0]))
    assert not watcher.good
    names(watcher, series("reward", [0.8, 0.8]), first=5)
    assert watcher.good


# Whole runs


def binomial(rng: Random, rate: float, count: int = 256) -> float:
    return sum(rng.random() < rate for _ in range(count)) / count


def collapse(seed: int, fall: float) -> list[dict[str, float]]:
    """50 steps to 90% with gradient norms of 1, then 20 in which the reward falls to 0 and the norm rises to 8."""
    rng = Random(f"collapse/{seed}")
    rising = [(0.5 + 0.4 * step / 50, 1.0) for step in range(50)]
    falling = [(0.9 * (1 - (step / 20) ** fall), 1 + 7 * step / 20) for step in range(1, 21)]
    return [
        {"reward": binomial(rng, rate), "grad_norm": norm * rng.lognormvariate(0, 0.2), "rate": rate}
        for rate, norm in rising + falling
    ]


@pytest.mark.parametrize("fall", [1.0, 2.0])
def test_a_collapse_is_called_out_before_most_of_the_reward_is_lost(fall: float) -> None:
    for seed in range(20):
        watcher, steps = health(window=5), collapse(seed, fall)
        severe = [step for step, told in enumerate(names(watcher, steps)) if told]
        assert severe[0] >= 50
        assert steps[severe[0]]["rate"] > 0.4
        assert not watcher.good


def test_the_newest_good_step_of_a_collapse_is_from_before_most_of_the_trouble() -> None:
    for seed in range(20):
        watcher, steps, good = health(window=5), collapse(seed, 1.0), 0
        for step, row in enumerate(steps):
            if watcher.observe(step + 1, row):
                break
            good = step if watcher.good else good
        assert steps[good]["rate"] > 0.65


def test_a_healthy_noisy_run_gives_no_severe_alarm() -> None:
    for seed in range(20):
        rng, watcher, good = Random(f"healthy/{seed}"), health(window=5), 0
        for step in range(500):
            rate = 0.99 - 0.49 * math.exp(-step / 120)
            values = {"reward": binomial(rng, rate), "grad_norm": 0.5 * rng.lognormvariate(0, 0.5)}
            assert [alarm for alarm in watcher.observe(step + 1, values) if alarm.severe] == []
            good += watcher.good
        assert good > 450


# Checkpoints

METRICS = st.fixed_dictionaries(
    {},
    optional={
        "reward": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
        "grad_norm": st.sampled_from([0.0, 0.5, 1.0, 8.0]) | st.floats(0, 1e30),
        "entropy": st.floats(0, 0.01),
        "live_groups": st.floats(0, 0.1),
        "truncated": st.floats(0, 1),
        "mismatch_kl": st.floats(0, 0.002),
        "scratchpad_tokens": st.sampled_from([0.0, 0.1, 20.0]),
        "frontier": st.sampled_from([0.0, 1.0]),
        "loss": st.floats(),
    },
)


@given(
    steps=st.lists(METRICS, max_size=20),
    cut=st.integers(0, 20),
    window=st.integers(1, 3),
    action=st.sampled_from(["warn", "stop"]),
)
def test_going_on_from_a_checkpoint_changes_nothing(
    steps: list[dict[str, float]], cut: int, window: int, action: str
) -> None:
    def judge(watcher: Health, first: int, last: int) -> list[tuple[list[Alarm], bool]]:
        return [(watcher.observe(step + 1, steps[step]), watcher.good) for step in range(len(steps))[first:last]]

    whole, before, after = (health(window=window, action=action) for _ in range(3))
    expected = judge(whole, 0, 20)
    resumed = judge(before, 0, cut)
    after.load(json.loads(json.dumps(before.state(), allow_nan=False)))
    resumed += judge(after, cut, 20)
    assert resumed == expected
    assert after.state() == whole.state()


def test_a_state_does_not_change_after_it_was_taken() -> None:
    row = {"reward": 0.5, "grad_norm": 1.0, "mismatch_kl": 1.0}
    watcher, other = health(), health()
    names(watcher, [row] * 4)
    state = watcher.state()
    kept = json.dumps(state)
    names(watcher, [row | {"reward": 0.9}] * 4)
    assert json.dumps(state) == kept
    other.load(state)
    names(other, [row | {"reward": 0.9}] * 4)
    assert json.dumps(state) == kept

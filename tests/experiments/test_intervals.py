"""Statistics over seeds and problems: numbers worked by hand, invariances, and the coverage that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from latentpad.experiments.intervals import (
    crossed_variance,
    estimate,
    holm,
    interquartile_mean,
    success_rate,
)
from tests.experiments.simulated import World, bootstrapped, covered

# Means of seeds 3/4, 1/4, 2/4; of problems 1, 2/3, 1/3, 0.
WORKED = np.array([[1.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])


def test_an_estimate_worked_by_hand() -> None:
    # V_seed = var(3/4, 1/4, 1/2) / 3 = (1/16) / 3 = 1/48. V_problem = var(1, 2/3, 1/3, 0) / 4 = (5/27) / 4 = 5/108.
    # Sums of squares: total 12/4 = 3, seeds 4/8 = 1/2, problems 3 * 5/9 = 5/3, so the rest 3 - 1/2 - 5/3 = 5/6 on 6 df;
    # V_rest = (5/36) / 12 = 5/432. Variance 1/48 + 5/108 - 5/432 = 9/432 + 20/432 - 5/432 = 24/432 = 1/18.
    # df = (1/18)^2 * 2 / (1/48)^2 = 14.22, at most 2 (S - 1) MS_problem / MS_rest = 4 (5/108) / (5/432) = 16.
    variance, df = crossed_variance(WORKED)
    assert (float(variance), float(df)) == (pytest.approx(1 / 18), pytest.approx(128 / 9))
    found = estimate(WORKED)
    spread = float(t.ppf(0.975, 128 / 9)) * (1 / 18) ** 0.5
    assert (found.mean, found.low) == (pytest.approx(0.5), pytest.approx(0.5 - spread))
    assert found.high == 1.0  # clipped from 1.005
    assert found.p_value == pytest.approx(2 * t.sf(0.5 * 18**0.5, 128 / 9))
    assert (found.seeds, found.problems, found.over) == (3, 4, "seeds and problems")


def test_where_seeds_differ_most_the_degrees_of_freedom_are_theirs() -> None:
    rng = np.random.default_rng(0)
    values = np.array([0.1, 0.5, 0.6])[:, None] + 1e-4 * rng.standard_normal((3, 200))
    found = estimate(values)
    assert found.df == pytest.approx(2, abs=1e-3)
    assert found.p_value == pytest.approx(ttest_1samp(values.mean(1), 0).pvalue, rel=1e-3)


def test_one_seed_is_a_t_interval_over_problems_and_says_so() -> None:
    values = np.array([[1.0, 0, 0, -1, 1, 0, 0, 0, 1, 0]])
    found = estimate(values)
    oracle = ttest_1samp(values[0], 0)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert (found.df, found.over) == (pytest.approx(9), "problems of one seed")


def test_changing_sides_mirrors_an_estimate() -> None:
    values = np.random.default_rng(1).integers(-1, 2, (3, 40)).astype(float)
    one, other = estimate(values), estimate(-values)
    assert (one.mean, one.low, one.high, one.p_value) == pytest.approx(
        (-other.mean, -other.high, -other.low, other.p_value)
    )


def test_the_order_of_seeds_and_problems_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(-1, 2, (5, 30)).astype(float)
    strata = ["a"] * 10 + ["b"] * 20
    mixed = rng.permutation(30)
    other = estimate(values[::-1][:, mixed], [strata[i] for i in mixed])
    one = estimate(values, strata)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


def test_strata_count_alike_however_many_problems_they_have() -> None:
    values = np.array([[1.0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    assert estimate(values, ["a", "a", "b", "b", "b", "b"]).mean == pytest.approx(0.375)
    assert estimate(values).mean == pytest.approx(0.25)
    whole = crossed_variance(values, ["a", "a", "b", "b", "b", "b"])[0]
    only = crossed_variance(values[:, :2])[0]
    assert float(whole) == pytest.approx(float(only) / 4)  # nothing varies in b; a has half the weight


def test_what_never_differs_still_has_an_interval() -> None:
    # 100 problems without an exception: a share of at most 1 - 0.025^(1/100) = 0.036217 are exceptions.
    found = estimate(np.zeros((3, 100)))
    assert (found.mean, found.low, found.high) == (
        0,
        pytest.approx(-0.036217, abs=1e-6),
        pytest.approx(0.036217, abs=1e-6),
    )
    assert (found.p_value, found.df) == (1.0, 0.0)
    gained = estimate(np.ones((3, 6)))
    assert (gained.low, gained.high) == (pytest.approx(2 * 0.025 ** (1 / 6) - 1), 1.0)
    assert gained.p_value == pytest.approx(2 * 0.5**6)  # as the sign test over 6 problems
    assert estimate(np.ones((3, 10)), least=0.0).low == pytest.approx(0.025**0.1)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (5, 40)])
def test_the_p_value_is_below_5_percent_just_where_the_interval_leaves_zero_out(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        found = estimate((rng.random(shape) < 0.6) - 1.0 * (rng.random(shape) < 0.2))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((3, 0)), np.zeros((3, 1)), np.zeros((0, 4))])
def test_too_little_to_tell_a_spread_from_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        estimate(values)


@pytest.mark.parametrize(
    "world",
    [
        World(3, 100, 0.5, 0.5, 0.0),
        World(3, 100, 0.5, 0.5, 0.02),
        World(3, 100, 0.5, 0.6, 0.1),
        World(3, 100, 0.9, 0.9, 0.02),
        World(3, 500, 0.5, 0.5, 0.02),
        World(3, 500, 0.5, 0.5, 0.1),
        World(3, 500, 0.98, 0.98, 0.0),
        World(5, 100, 0.5, 0.6, 0.02),
        World(5, 100, 0.98, 0.98, 0.0),
        World(5, 500, 0.5, 0.5, 0.1),
        World(5, 500, 0.9, 0.95, 0.02),
        World(3, 100, 0.5, 0.5, 0.0, arm_problem=3.0, seed_problem=0.3),
        World(3, 500, 0.9, 0.9, 0.0, arm_problem=3.0, seed_problem=0.3),
    ],
    ids=str,
)
def test_the_interval_covers_the_truth_in_95_of_100_experiments(world: World) -> None:
    repeats = 2500 if world.problems == 100 else 1000  # standard error 0.45 and 0.7 points
    coverage = covered(world.differences(repeats), world.truth)
    assert 0.925 <= coverage <= 0.972


def test_the_interval_of_one_arm_covers_its_accuracy() -> None:
    world = World(3, 100, 0.5, 0.6, 0.02)
    assert 0.93 <= covered(world.levels(2500), world.arm) <= 0.972


def test_the_percentile_bootstrap_of_three_seeds_does_not() -> None:
    world = World(3, 100, 0.5, 0.5, 0.1)
    values = world.differences(250)
    nested, crossed = (bootstrapped(values, world.truth, draws=200, crossed=c) for c in (False, True))
    assert nested < 0.89
    assert crossed < 0.93
    assert covered(values, world.truth) > 0.92


def test_the_covered_interval_is_the_reported_one() -> None:
    values = World(3, 100, 0.5, 0.6, 0.05).differences(60)
    held = [e.low <= 0.1 <= e.high for e in map(estimate, values)]
    assert covered(values, World(3, 100, 0.5, 0.6, 0.05).truth) == pytest.approx(float(np.mean(held)))


def test_holm_worked_by_hand() -> None:
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 -> 0.02, 0.03, 0.06, then not less than 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_errs_in_at_most_5_of_100_families() -> None:
    rng = np.random.default_rng(4)
    families = rng.random((4000, 6))
    families[:, :2] /= 1e6  # two effects that are there
    errors = [min(holm(list(f))[2:]) <= 0.05 for f in families]
    assert 0.035 <= np.mean(errors) <= 0.06  # four true nulls: 1 - (1 - 0.05 / 4)^4 = 0.049
    assert np.mean((families[:, 2:] <= 0.05).any(1)) > 0.15  # without it


def test_the_interquartile_mean_leaves_the_extremes_out() -> None:
    assert interquartile_mean([1.0, 0.0, 0.5, 0.6, 0.7]) == pytest.approx(0.6)
    assert interquartile_mean([0.0, 0.5, 1.0]) == pytest.approx(0.5)


def test_success_is_reaching_the_threshold_and_its_interval_is_exact() -> None:
    rate = success_rate([0.9, 0.95, 0.2], 0.9)
    # Clopper-Pearson of 2 in 3: (0.0943, 0.9916).
    assert (rate.successes, rate.seeds) == (2, 3)
    assert (rate.low, rate.high) == pytest.approx((0.0943, 0.9916), abs=1e-4)
    assert success_rate([0.8999], 0.9).successes == 0

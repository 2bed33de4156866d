"""Intervals and tests against numbers worked by hand, the published ones, and the coverage that they promise."""

from __future__ import annotations

from functools import cache
from math import comb, exp, lgamma, log

import pytest

from latentpad.evaluation.evaluate import Cell, record, summarise, wilson
from latentpad.experiments.compare import Paired, compare_paired
from latentpad.types import Episode, FinishReason, Problem, Prompt, Rollout
from reward import Outcome, Reward
from tests import tiny


def verdicts(n: int, gained: int, lost: int, both: int = 0) -> tuple[dict[str, bool], dict[str, bool]]:
    """Two policies on n problems: `gained` right in the first only, `lost` in the second only, `both` in both."""
    arm = {f"p{i}": i < gained or gained + lost <= i < gained + lost + both for i in range(n)}
    baseline = {f"p{i}": gained <= i < gained + lost + both for i in range(n)}
    return arm, baseline


def compare(n: int, gained: int, lost: int, both: int = 0) -> Paired:
    return compare_paired(*verdicts(n, gained, lost, both))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (22, 200, 0.074, 0.161),
        (83, 200, 0.349, 0.484),
        (176, 2000, 0.076, 0.101),
        (402, 2000, 0.184, 0.219),
        (1014, 2000, 0.485, 0.529),
    ],
)
def test_the_wilson_interval_has_its_known_ends(correct: int, n: int, low: float, high: float) -> None:
    digits = 4 if n <= 10 else 3
    assert tuple(round(end, digits) for end in wilson(correct, n)) == (low, high)


@pytest.mark.parametrize("n", [1, 7, 100])
def test_the_wilson_interval_mirrors_and_stays_within_0_and_1(n: int) -> None:
    for correct in range(n + 1):
        (low, high), (other_low, other_high) = wilson(correct, n), wilson(n - correct, n)
        assert 0 <= low <= correct / n <= high <= 1
        assert (low, high) == pytest.approx((1 - other_high, 1 - other_low))


def test_a_comparison_worked_by_hand() -> None:
    # b = 4, c = 1, n = 10: p = 2 (C(5,0) + C(5,1)) / 2^5. With +0.5: b = 4.5, c = 1.5, n = 12, centre 3 / 12,
    # spread 1.959964 sqrt(6 - 9 / 12) / 12 = 0.374236.
    paired = compare(10, gained=4, lost=1, both=3)
    assert (paired.n, paired.only_arm, paired.only_baseline) == (10, 4, 1)
    assert paired.difference == pytest.approx(0.3)
    assert paired.p_value == pytest.approx(0.375)
    assert (paired.low, paired.high) == pytest.approx((0.25 - 0.374236, 0.25 + 0.374236), abs=1e-6)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 1), (0, 6), (10, 2), (7, 8), (30, 11), (0, 200)])
def test_the_p_value_is_the_exact_mcnemar_test(gained: int, lost: int) -> None:
    disagreements = gained + lost
    tail = sum(comb(disagreements, k) for k in range(min(gained, lost) + 1)) / 2**disagreements
    assert compare(250, gained, lost).p_value == pytest.approx(min(1.0, 2 * tail))


def test_the_p_value_of_ten_against_two() -> None:
    assert compare(12, gained=10, lost=2).p_value == pytest.approx(158 / 4096)


def test_no_disagreement_is_no_evidence() -> None:
    paired = compare(50, gained=0, lost=0, both=20)
    assert (paired.difference, paired.p_value) == (0.0, 1.0)
    assert paired.low == pytest.approx(-paired.high)
    assert paired.high > 0


def test_changing_sides_mirrors_the_comparison() -> None:
    one, other = compare(40, gained=9, lost=3), compare(40, gained=3, lost=9)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


def test_what_both_get_right_changes_neither_side() -> None:
    assert compare(40, gained=9, lost=3, both=0) == compare(40, gained=9, lost=3, both=28)


def test_the_interval_stays_within_what_a_difference_can_be() -> None:
    assert compare(2, gained=2, lost=0).high == 1.0
    assert compare(2, gained=0, lost=2).low == -1.0


def test_problems_that_only_one_answered_do_not_count() -> None:
    assert compare_paired({"a": True, "b": True}, {"b": False, "c": True}) == compare(1, gained=1, lost=0)


def test_two_policies_without_a_problem_in_common_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="answered no problem in common"):
        compare_paired({"a": True}, {"b": True})


@cache
def interval(n: int, gained: int, lost: int) -> tuple[float, float]:
    paired = compare(n, gained, lost)
    return paired.low, paired.high


@pytest.mark.parametrize(("p_gain", "p_loss"), [(0.1, 0.1), (0.2, 0.1), (0.4, 0.05), (0.3, 0.3), (0.15, 0.05)])
def test_the_paired_interval_covers_the_truth_in_95_of_100_experiments(p_gain: float, p_loss: float) -> None:
    """Exact, over every outcome of 60 problems, each with its multinomial probability."""
    n, covered, total = 60, 0.0, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            rest = n - gained - lost
            ways = lgamma(n + 1) - lgamma(gained + 1) - lgamma(lost + 1) - lgamma(rest + 1)
            chance = exp(ways + gained * log(p_gain) + lost * log(p_loss) + rest * log(1 - p_gain - p_loss))
            low, high = interval(n, gained, lost)
            covered += chance * (low <= p_gain - p_loss <= high)
            total += chance
    assert total == pytest.approx(1)
    assert 0.93 <= covered <= 0.97


def episode(outcome: Outcome, response: str, tokens: int) -> Episode:
    problem = Problem("addition/test/2+5", "addition", "test", "digits=1", "2+5", "7")
    stop = FinishReason.LENGTH if outcome is Outcome.TRUNCATED else FinishReason.STOP
    rollout = Rollout(Prompt(problem, "2+5=", (1, 2, 3, 4)), (5,) * tokens, (-0.1,) * tokens, stop, 0, "", 0)
    return Episode(rollout, response, Reward.of(outcome))


def test_a_cell_counts_every_kind_of_outcome() -> None:
    episodes = [
        episode(Outcome.CORRECT, "<scratch>a</scratch>7", 6),
        episode(Outcome.CORRECT, "7", 2),
        episode(Outcome.WRONG, "<scratch></scratch>8", 4),
        episode(Outcome.UNPARSEABLE, "x", 2),
        episode(Outcome.TRUNCATED, "<scratch>a", 16),
    ]
    assert summarise(episodes, "digits=1", "greedy") == Cell(
        task="addition",
        split="test",
        cell="digits=1",
        n=5,
        correct=2,
        accuracy=0.4,
        low=wilson(2, 5)[0],
        high=wilson(2, 5)[1],
        decoding="greedy",
        scratchpad_rate=0.2,
        response_tokens=6.0,
        truncated=0.2,
        unparseable=0.2,
        grader_failed=0.0,
    )


def test_a_record_holds_what_was_asked_written_read_and_true() -> None:
    assert record(tiny.task(), episode(Outcome.WRONG, "<scratch>a</scratch> 8", 6), "digits=1", "greedy") == {
        "problem": "addition/test/2+5",
        "task": "addition",
        "split": "test",
        "cell": "digits=1",
        "decoding": "greedy",
        "prompt": "2+5=",
        "response": "<scratch>a</scratch> 8",
        "answer": "8",
        "gold": "7",
        "outcome": "WRONG",
        "finish_reason": "STOP",
    }

"""Many tries at a problem: what is written of them, pass@k and maj@k by hand, by enumeration, and their intervals."""

from __future__ import annotations

import json
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latentpad.evaluation.evaluate import evaluate, write_evaluation
from latentpad.evaluation.tries import crossing, majority_at, pass_at, powers_of_two, tally
from latentpad.experiments.intervals import estimate
from latentpad.rollout.local import LocalEngine
from latentpad.types import Episode
from reward import Outcome, Reward
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one() -> None:
    for n, k in [(1, 1), (5, 1), (5, 3), (5, 5), (12, 4)]:
        expected = [1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)]
        assert pass_at(n, range(n + 1), k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_1_is_the_share_of_right_ones_and_at_n_whether_there_is_one() -> None:
    assert pass_at(1000, [0, 1, 500, 1000], 1) == pytest.approx([0, 0.001, 0.5, 1])
    assert pass_at(1000, [0, 1, 500, 1000], 1000).tolist() == [0, 1, 1, 1]


def test_pass_at_k_of_many_tries_does_not_overflow() -> None:
    # 1 - (9744 / 10000) * (9743 / 9999) * ...: of 10000 with 256 right, 2 drawn.
    assert pass_at(10_000, [256], 2)[0] == pytest.approx(1 - 9744 / 10_000 * 9743 / 9999)


@pytest.mark.parametrize(("n", "correct", "k"), [(4, [2], 5), (4, [2], 0), (4, [5], 2), (4, [-1], 2)])
def test_pass_at_k_out_of_range_is_refused(n: int, correct: list[int], k: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= k <= n"):
        pass_at(n, correct, k)


def test_pass_at_k_from_more_tries_is_unbiased() -> None:
    chances = np.array([0.02, 0.3])
    counts = np.random.default_rng(0).binomial(16, chances, size=(20_000, 2))
    measured = np.mean([pass_at(16, counts[:, i], 4).mean() for i in (0, 1)])
    assert measured == pytest.approx(float(np.mean(1 - (1 - chances) ** 4)), abs=0.004)


def enumerated(answers: list[tuple[str | None, bool, int]], k: int) -> float:
    """maj@k over all subsets, ties shared."""
    pool = [i for i, (*_, count) in enumerate(answers) for _ in range(count)]
    shares = []
    for drawn in combinations(pool, k):
        votes = {i: drawn.count(i) for i in set(drawn) if answers[i][0] is not None}
        top = [i for i, count in votes.items() if count == max(votes.values())]
        shares.append(sum(answers[i][1] for i in top) / len(top) if top else 0.0)
    return float(np.mean(shares))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    "answers",
    [
        [("7", True, 3), ("8", False, 3), ("9", False, 1)],
        [("8", False, 4), ("7", True, 2), (None, False, 1)],
        [(None, False, 5), ("7", True, 2)],
        [(None, False, 7)],
    ],
)
def test_the_majority_of_k_is_that_over_all_draws(answers: list[tuple[str | None, bool, int]], k: int) -> None:
    exact = k in (1, 7)
    assert majority_at(answers, k) == pytest.approx(enumerated(answers, k), abs=1e-12 if exact else 0.05)


def test_the_majority_of_all_by_hand() -> None:
    assert majority_at([("7", True, 3), ("8", False, 3), ("9", False, 2)], 8) == 0.5  # a tie of two
    assert majority_at([("8", False, 5), ("7", True, 4)], 9) == 0.0
    assert majority_at([(None, False, 6), ("7", True, 1)], 7) == 1.0  # what was not read has no vote


def test_the_majority_repeats_and_k_out_of_range_is_refused() -> None:
    answers = [("7", True, 9), ("8", False, 8)]
    assert majority_at(answers, 5, seed=3) == majority_at(answers, 5, seed=3)
    with pytest.raises(ValueError, match="expected 1 <= k <= 17"):
        majority_at(answers, 18)


def test_ks_double_up_to_n() -> None:
    assert [powers_of_two(n) for n in (1, 2, 12, 16)] == [[1], [1, 2], [1, 2, 4, 8, 12], [1, 2, 4, 8, 16]]


@pytest.mark.parametrize(
    ("trained", "base", "k"),
    [
        ([0.5, 0.6, 0.65], [0.2, 0.6, 0.8], 2),
        ([0.5, 0.6, 0.9], [0.2, 0.7, 0.8], None),  # crossed, and back
        ([0.5, 0.6], [0.5, 0.7], 1),
        ([0.5, 0.9], [0.2, 0.8], None),
    ],
)
def test_curves_cross_where_the_base_stays_at_or_above(trained: list[float], base: list[float], k: int | None) -> None:
    assert crossing(trained, base) == k


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_of_pass_at_k_covers_the_truth(seeds: int) -> None:
    """Problems of different difficulty, 100 of them, 32 tries each, k = 8; seeds that differ by 0.3 logits."""
    rng, n, k, hits = np.random.default_rng(5), 32, 8, []
    spread = 0.3 if seeds > 1 else 0.0
    wide = rng.standard_normal(200_000) * np.hypot(1.5, spread) - 3
    truth = float(np.mean(1 - (1 - 1 / (1 + np.exp(-wide))) ** k))
    for _ in range(1000):
        logits = -3 + 1.5 * rng.standard_normal((1, 100)) + spread * rng.standard_normal((seeds, 1))
        counts = rng.binomial(n, 1 / (1 + np.exp(-logits)))
        found = estimate(pass_at(n, counts, k), least=0.0)
        hits.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(hits) <= 0.975


def episode(outcome: Outcome, response: str) -> Episode:
    return Episode(tiny.rollout(tiny.policy(), "1+2", response), response, Reward.of(outcome))


def test_a_tally_counts_answers_in_order_and_leaves_out_what_was_not_read() -> None:
    episodes = [
        episode(Outcome.WRONG, "4"),
        episode(Outcome.CORRECT, "3"),
        episode(Outcome.TRUNCATED, "3"),
        episode(Outcome.CORRECT, "<scratch>a</scratch>3"),
        episode(Outcome.UNPARSEABLE, "x"),
    ]
    assert tally(tiny.task(), "digits=1", episodes) == {
        "cell": "digits=1",
        "problem": "1+2",
        "n": 5,
        "correct": 2,
        "answers": [["4", False, 1], ["3", True, 2], [None, False, 2]],
    }


def test_an_evaluation_writes_a_tally_for_each_problem_that_it_tried(tmp_path: Path) -> None:
    policy = tiny.policy()
    recipe = tiny.recipe("rl", evaluation={"problems": 6, "max_new_tokens": 3, "pass_at": 40, "pass_problems": 6})
    found = evaluate(recipe, policy, LocalEngine(policy, chunk_size=64), tiny.task(), tiny.COMPACT)
    write_evaluation(tmp_path, 5, "x", *found, asked=recipe.evaluation)
    lines = [json.loads(line) for line in (tmp_path / "eval" / "5.tries.jsonl").read_text().splitlines()]
    passed = {cell.cell: cell.correct for cell in found[0] if cell.decoding == "pass@40"}
    assert {(line["cell"], line["problem"]) for line in lines} == {
        (r["cell"], r["problem"]) for r in found[1] if r["decoding"] == "pass@40"
    }
    assert sum(passed.values()) > 0
    for cell, correct in passed.items():
        assert sum(line["correct"] > 0 for line in lines if line["cell"] == cell) == correct
    for line in lines:
        assert line["n"] == sum(count for *_, count in line["answers"]) == 40
        assert line["correct"] == sum(count for _, right, count in line["answers"] if right)
    assert json.loads((tmp_path / "eval" / "5.json").read_text())["evaluation"]["pass_at"] == 40


def test_tallies_of_an_earlier_evaluation_do_not_stay(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 5, "x", [], [], [{"cell": "a"}])
    write_evaluation(tmp_path, 5, "x", [], [])
    assert sorted(file.name for file in (tmp_path / "eval").iterdir()) == ["5.json", "5.jsonl"]

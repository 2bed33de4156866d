"""The ladder draws by its names, climbs on a full window of right answers, and resumes where it was."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpad.recipe.rl_schema import LadderSection
from latentpad.training.ladder import Ladder

RUNGS = ["1 digit", "2 digits", "3 digits", "4 digits"]


def ladder(frontier: int = 0, *, window: int = 4, promote_at: float = 0.75, share: float = 0.5) -> Ladder:
    section = LadderSection(rungs=RUNGS, promote_at=promote_at, window=window, frontier_share=share)
    made = Ladder(section)
    made.load({"frontier": frontier, "verdicts": []})
    return made


def verdicts(cell: str, text: str) -> list[tuple[str, bool]]:
    """`+` is a right answer."""
    return [(cell, mark == "+") for mark in text]


def test_it_starts_with_nothing_but_the_first_rung() -> None:
    section = LadderSection(rungs=RUNGS)
    assert Ladder(section).frontier == 0
    assert Ladder(section).cells(3, "run", 0) == ["1 digit"] * 3


def test_the_frontier_has_its_share_and_the_rungs_below_the_rest_alike() -> None:
    counts = Counter(ladder(3, share=0.4).cells(20, "run", 0))
    assert counts == {"4 digits": 8, "1 digit": 4, "2 digits": 4, "3 digits": 4}


def test_which_rungs_get_the_remainder_differs_from_step_to_step() -> None:
    extra = {tuple(sorted(Counter(ladder(3).cells(8, "run", step)).items())) for step in range(40)}
    assert extra == {
        (("1 digit", 2), ("2 digits", 1), ("3 digits", 1), ("4 digits", 4)),
        (("1 digit", 1), ("2 digits", 2), ("3 digits", 1), ("4 digits", 4)),
        (("1 digit", 1), ("2 digits", 1), ("3 digits", 2), ("4 digits", 4)),
    }


def test_one_prompt_of_a_small_share_is_at_the_frontier() -> None:
    assert ladder(2, share=0.01).cells(1, "run", 0) == ["3 digits"]
    assert Counter(ladder(2, share=0.01).cells(5, "run", 0))["3 digits"] == 1


def test_a_share_of_all_leaves_none_for_the_rungs_below() -> None:
    assert ladder(2, share=1.0).cells(5, "run", 0) == ["3 digits"] * 5


@given(count=st.integers(1, 64), frontier=st.integers(1, 3), share=st.floats(0.01, 1.0), step=st.integers(0, 99))
def test_the_shares_are_exact_for_any_count(count: int, frontier: int, share: float, step: int) -> None:
    drawn = ladder(frontier, share=share).cells(count, "run", step)
    counts = Counter(drawn)
    lower = [counts[rung] for rung in RUNGS[:frontier]]
    assert len(drawn) == count
    assert counts[RUNGS[frontier]] == max(1, round(share * count))
    assert max(lower) - min(lower) <= 1
    assert not set(drawn) & set(RUNGS[frontier + 1 :])


def test_cells_are_drawn_by_their_names_alone() -> None:
    mine, other = ladder(2), ladder(2)
    other.cells(16, "run", 7)
    other.observe(verdicts("3 digits", "+-"))
    assert mine.cells(16, "run", 8) == other.cells(16, "run", 8) != mine.cells(16, "run", 9)


def test_the_order_is_shuffled() -> None:
    firsts = {ladder(1).cells(8, "run", step)[0] for step in range(20)}
    assert firsts == {"1 digit", "2 digits"}


def test_it_climbs_when_the_window_is_full_and_right_often_enough() -> None:
    climber = ladder()
    assert not climber.observe(verdicts("1 digit", "+++"))
    assert climber.observe(verdicts("1 digit", "-"))  # 3 of 4, and 0.75 suffices
    assert climber.frontier == 1


def test_it_stays_where_too_few_are_right() -> None:
    climber = ladder()
    assert not climber.observe(verdicts("1 digit", "++--"))
    assert climber.frontier == 0


def test_only_the_last_window_of_rollouts_counts() -> None:
    climber = ladder()
    assert not climber.observe(verdicts("1 digit", "----++"))
    assert climber.observe(verdicts("1 digit", "+"))


def test_rollouts_at_other_rungs_do_not_count() -> None:
    climber = ladder(1)
    assert not climber.observe(verdicts("1 digit", "++++") + verdicts("3 digits", "++++"))
    assert climber.observe(verdicts("1 digit", "----") + verdicts("2 digits", "++++"))


def test_a_new_frontier_starts_with_an_empty_window() -> None:
    climber = ladder()
    climber.observe(verdicts("1 digit", "++++"))
    assert not climber.observe(verdicts("2 digits", "+++"))
    assert climber.observe(verdicts("2 digits", "+"))


def test_it_climbs_one_rung_a_step_at_most() -> None:
    climber = ladder()
    assert climber.observe([(rung, True) for rung in RUNGS for _ in range(9)])
    assert climber.frontier == 1


def test_it_stays_at_the_last_rung() -> None:
    climber = ladder(3)
    assert not climber.observe(verdicts("4 digits", "++++"))
    assert climber.frontier == 3


@pytest.mark.parametrize(("promote_at", "right"), [(0.8, 205), (0.7, 180), (1.0, 256)])  # 0.8 * 256 is 204.8
def test_the_rate_is_compared_without_rounding(promote_at: float, right: int) -> None:
    def climbs(right: int) -> bool:
        return ladder(window=256, promote_at=promote_at).observe(verdicts("1 digit", "+" * right + "-" * (256 - right)))

    assert climbs(right)
    assert not climbs(right - 1)


RATES = st.lists(st.tuples(st.sampled_from(RUNGS), st.booleans() | st.just(True)), max_size=12)


@given(steps=st.lists(RATES, max_size=20), cut=st.integers(0, 20))
def test_going_on_from_a_checkpoint_changes_nothing(steps: list[list[tuple[str, bool]]], cut: int) -> None:
    def climb(climber: Ladder, first: int, last: int) -> list[tuple[list[str], bool]]:
        numbers = range(len(steps))[first:last]
        return [(climber.cells(5, "run", n), climber.observe(steps[n])) for n in numbers]

    whole, before, after = ladder(), ladder(), ladder()
    expected = climb(whole, 0, 20)
    resumed = climb(before, 0, cut)
    after.load(json.loads(json.dumps(before.state())))
    resumed += climb(after, cut, 20)
    assert resumed == expected
    assert after.state() == whole.state()
    assert len(whole.state()["verdicts"]) <= 4


def test_a_state_does_not_change_after_it_was_taken() -> None:
    climber = ladder()
    state = climber.state()
    climber.observe(verdicts("1 digit", "++"))
    assert state == {"frontier": 0, "verdicts": []}
    other = ladder()
    other.load(state)
    other.observe(verdicts("1 digit", "++"))
    assert state == {"frontier": 0, "verdicts": []}

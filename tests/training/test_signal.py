"""What a rollout earns: its verdict, less for length, and blind to what stands in the scratchpad."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentpad.algorithms import Needs
from latentpad.recipe.errors import RecipeError
from latentpad.tasks.addition import Addition
from latentpad.training.episodes import grade_rollouts
from latentpad.training.signal import (
    by_vote,
    earned,
    other_problem,
    scratchpad_tokens,
    training_signal,
    verdicts,
)
from latentpad.types import Episode, Group
from reward import Outcome, Reward
from tests import tiny

if TYPE_CHECKING:
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe

OVERLONG = Needs(overlong_buffer=8)


@cache
def policy() -> Policy:
    """Read only: for its tokenizer."""
    return tiny.policy()


def episode(response: str, *, stop: bool = True) -> Episode:
    """What the real path makes of a response to 1+2, graded."""
    rollout = tiny.rollout(policy(), "1+2", response, stop=stop)
    problem = replace(rollout.prompt.problem, answer="3")
    rollout = replace(rollout, prompt=replace(rollout.prompt, problem=problem))
    return grade_rollouts(policy(), tiny.task(), [rollout])[0]


def recipe(half: int | None = None, signal: str = "answer", seed: int = 0) -> Recipe:
    return tiny.recipe("rl", rl={"half_length": half, "signal": signal}, seed=seed)


def paid(response: str, half: int | None = None, needs: Needs | None = None, *, stop: bool = True) -> float:
    return earned(policy(), episode(response, stop=stop), recipe(half), needs or Needs())


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("<scratch>1+2,C:0</scratch>3", 7),
        ("<scratch></scratch>3", 0),
        ("3", 0),
        ("<scratch>1+2", 3),  # never closed
        ("<scratch>1\n2</scratch>33333", 3),
    ],
)
def test_a_scratchpads_length_is_in_tokens_without_tags_or_answer(response: str, count: int) -> None:
    assert scratchpad_tokens(policy(), response) == count


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("<scratch>1+2,C:0</scratch>3", 5 / 12),  # 5 / (5 + 7)
        ("<scratch>1+2,C</scratch>3", 5 / 10),  # half at half_length
        ("<scratch></scratch>3", 1.0),
        ("3", 1.0),
        ("<scratch>1+2,C:0</scratch>4", 0.0),
        ("4", 0.0),
        ("<scratch>1+2", 0.0),
    ],
)
def test_a_right_answer_after_n_tokens_earns_half_length_over_half_length_and_n(response: str, value: float) -> None:
    assert paid(response, half=5) == pytest.approx(value)
    assert paid(response) == (1.0 if value else 0.0)


def test_the_answers_own_length_costs_nothing() -> None:
    assert paid("<scratch>12345</scratch>3", half=5) == paid("<scratch>12345</scratch>0003", half=5) == 0.5


PADS = st.text(alphabet="0123456789+,:C\n=", min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(pads=PADS.flatmap(lambda a: st.tuples(st.just(a), st.permutations("0123456789+,:C\n="))))
@pytest.mark.parametrize("answer", ["3", "4"])
def test_scratchpads_of_the_same_length_earn_the_same_whatever_they_say(
    answer: str, pads: tuple[str, list[str]]
) -> None:
    pad, letters = pads
    other = pad.translate(str.maketrans("0123456789+,:C\n=", "".join(letters)))
    first, second = (f"<scratch>{text}</scratch>{answer}" for text in (pad, other))
    assert scratchpad_tokens(policy(), first) == scratchpad_tokens(policy(), second) == len(pad)
    assert paid(first, 5, OVERLONG) == paid(second, 5, OVERLONG)


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [(24, 0.0), (25, -1 / 8), (28, -4 / 8), (32, -1.0)],
)
def test_the_last_tokens_before_the_limit_cost_up_to_1(tokens: int, penalty: float) -> None:
    # the limit is 32, the buffer 8; a right answer of so many tokens, its stop token counted
    assert paid("0" * (tokens - 2) + "3", needs=OVERLONG) == pytest.approx(1 + penalty)
    assert paid("0" * (tokens - 2) + "3") == 1


def test_a_cut_response_pays_in_full() -> None:
    assert paid("1" * 32, needs=OVERLONG, stop=False) == -1
    assert paid("1" * 32, stop=False) == 0


def test_both_prices_are_paid() -> None:
    # 20 tokens in the pad, 4 others (tags, answer, stop) and 4 more in the answer: 28 tokens; 5 / 25 - 4 / 8
    assert paid(f"<scratch>{'1' * 20}</scratch>00003", 5, OVERLONG) == pytest.approx(0.2 - 0.5)


def test_random_deals_out_the_very_numbers_that_were_earned() -> None:
    texts = ["3", "4", "<scratch>12345</scratch>3", "<scratch>1</scratch>3"]
    groups = [Group(e.rollout.prompt, (e, episode("4"))) for e in map(episode, texts * 3)]
    honest = training_signal(groups, policy(), tiny.task(), recipe(5), Needs(), 0)
    dealt = training_signal(groups, policy(), tiny.task(), recipe(5, "random"), Needs(), 0)
    assert honest == [[1, 0], [0, 0], [0.5, 0], [5 / 6, 0]] * 3
    assert dealt != honest
    assert Counter(v for row in dealt for v in row) == Counter(v for row in honest for v in row)
    assert [len(row) for row in dealt] == [2] * 12
    assert dealt == training_signal(groups, policy(), tiny.task(), recipe(5, "random"), Needs(), 0)
    assert dealt != training_signal(groups, policy(), tiny.task(), recipe(5, "random"), Needs(), 1)
    assert dealt != training_signal(groups, policy(), tiny.task(), recipe(5, "random", seed=1), Needs(), 0)


def test_no_group_is_no_signal() -> None:
    assert training_signal([], policy(), tiny.task(), recipe(5), Needs(), 0) == []
    assert training_signal([], policy(), tiny.task(), recipe(5, "random"), Needs(), 0) == []


def group_of(*responses: str) -> Group:
    """To 1+2, whose gold answer is 3."""
    episodes = tuple(episode(response) for response in responses)
    return Group(episodes[0].rollout.prompt, episodes)


def test_a_vote_goes_by_the_answer_given_most_often_right_or_not() -> None:
    group = group_of("4", "<scratch>1+2,C:0</scratch>4", "3", "<scratch>1+2")
    assert by_vote(group, tiny.task()) == [True, True, False, False]  # a response without an answer never agrees
    assert by_vote(group_of("3", "4", "4", "3"), tiny.task()) == [True, False, False, True]  # of equals the first
    assert by_vote(group_of("<scratch>", "<scratch>"), tiny.task()) == [False, False]


def test_with_a_vote_the_gold_answer_decides_nothing() -> None:
    groups = [group_of("4", "4", "3"), group_of("3", "3", "3")]
    voted = training_signal(groups, policy(), tiny.task(), recipe(signal="vote"), Needs(), 0)
    assert voted == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert verdicts(groups, tiny.task(), recipe(signal="vote")) == [[True, True, False], [True, True, True]]
    assert verdicts(groups, tiny.task(), recipe()) == [[False, False, True], [True, True, True]]
    assert verdicts(groups, tiny.task(), recipe(signal="random")) == [[False, False, True], [True, True, True]]


def test_a_vote_pays_less_for_a_long_scratchpad_as_a_verdict_does() -> None:
    group = group_of("<scratch>1+2,C:0</scratch>4", "4", "3")
    voted = training_signal([group], policy(), tiny.task(), recipe(7, "vote"), Needs(), 0)
    assert voted == [[0.5, 1.0, 0.0]]


def test_for_form_alone_every_answer_that_can_be_read_is_paid() -> None:
    group = group_of("3", "4", "<scratch>1+2,C:0</scratch>3", "three", "<scratch>1+2", "")
    assert training_signal([group], policy(), tiny.task(), recipe(signal="format"), Needs(), 0) == [[1, 1, 1, 0, 0, 0]]
    cut = Group(group.prompt, (episode("3" * 32, stop=False), episode("3")))
    assert training_signal([cut], policy(), tiny.task(), recipe(signal="format"), Needs(), 0) == [[0, 1]]
    assert verdicts([group], tiny.task(), recipe(signal="format")) == [[True, False, True, False, False, False]]


def shuffled(group: Group, step: int = 0, seed: int = 0, half: int | None = None) -> list[float]:
    return training_signal([group], policy(), tiny.task(), recipe(half, "shuffled", seed), Needs(), step)[0]


ALL_SUMS = tuple(str(n) for n in range(19))


def test_shuffled_grades_the_whole_group_by_one_other_problem_of_the_cell() -> None:
    group = group_of(*ALL_SUMS, *ALL_SUMS)
    for step in range(20):
        other = other_problem(group.prompt.problem, tiny.task(), recipe(signal="shuffled"), step)
        assert (other.split, other.cell) == ("train", "digits=1")
        assert tiny.task().canonical(other) != "1+2"
        assert shuffled(group, step) == [float(text == other.answer) for text in ALL_SUMS * 2]
    assert verdicts([group], tiny.task(), recipe(signal="shuffled"))[0] == [text == "3" for text in ALL_SUMS * 2]


def test_the_other_problem_is_drawn_by_seed_and_step_and_problem() -> None:
    group, problem = group_of(*ALL_SUMS), tiny.task().parse("4+4")
    paid_for = [shuffled(group, step, seed).index(1.0) for step in range(15) for seed in range(2)]
    assert paid_for == [shuffled(group, step, seed).index(1.0) for step in range(15) for seed in range(2)]
    assert len(set(paid_for[::2])) > 5
    assert paid_for[::2] != paid_for[1::2]
    ours, theirs = (
        [other_problem(p, tiny.task(), recipe(signal="shuffled"), step).question for step in range(15)]
        for p in (group.prompt.problem, problem)
    )
    assert ours != theirs


def test_shuffled_labels_do_not_know_the_right_answer() -> None:
    """Over many steps the right answer is paid as often as the other problems of the cell have it, which is rarely."""
    group = group_of("3", "3")
    share = sum(shuffled(group, step)[0] for step in range(400)) / 400
    assert share == pytest.approx(2 / 98, abs=0.03)  # 0+3 and 3+0, of the 98 ordered pairs that are not 1+2


def test_a_cut_response_and_a_long_scratchpad_earn_less_by_other_labels_too() -> None:
    group = group_of("3")
    answer = other_problem(group.prompt.problem, tiny.task(), recipe(signal="shuffled"), 0).answer
    texts = [answer, f"<scratch>12345</scratch>{answer}", f"<scratch>1{answer}"]
    assert shuffled(group_of(*texts), half=5) == [1.0, 0.5, 0.0]


def test_where_the_grader_breaks_on_another_answer_the_group_earns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graded = [Reward.of(Outcome.CORRECT), Reward.of(Outcome.GRADER_FAILED)]
    group = group_of("3", "4")
    monkeypatch.setattr("latentpad.training.signal.grade_many", lambda *_, **__: graded)
    assert shuffled(group) == [0.0, 0.0]
    graded[1] = Reward.of(Outcome.WRONG)
    assert shuffled(group) == [1.0, 0.0]


def test_a_cell_of_one_problem_has_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Addition, "canonical", lambda *_: "one and the same")
    with pytest.raises(RecipeError, match=r"^rl\.signal: 'shuffled' needs a second problem in cell 'digits=1'"):
        shuffled(group_of("3"))


@pytest.mark.parametrize("signal", ["answer", "random", "vote", "shuffled", "format"])
def test_no_signal_but_one_reads_a_scratchpad(signal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read_scratchpad", "gold_scratchpad"):
        monkeypatch.setattr(Addition, name, lambda *_: pytest.fail("a signal asked what a scratchpad should say"))
    group = group_of("<scratch>1+2,C:0\n,3C:0\n03</scratch>3", "4")
    training_signal([group], policy(), tiny.task(), recipe(5, signal), Needs(), 0)


def test_the_process_reward_is_not_even_imported_unless_asked_for() -> None:
    code = (
        "import sys, latentpad.training.rl, latentpad.preflight\n"
        "assert 'latentpad.training.signal' in sys.modules\n"
        "sys.exit('latentpad.training.process_reward' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0

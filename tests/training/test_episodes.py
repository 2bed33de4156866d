"""An episode is graded by what the policy wrote, and by nothing that stood in its prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from latentpad.formats import FORMATS
from latentpad.training.episodes import grade_rollouts, into_groups, make_prompt, response_text, shown_answer
from reward import Outcome
from tests import tiny

if TYPE_CHECKING:
    from latentpad.tasks import Task
    from latentpad.types import Rollout


def answered(response: str, *, before: str = "", stop: bool = True) -> Rollout:
    """A rollout of `1+2` (3) with this response; `before` stands at the start of its prompt."""
    policy = tiny.policy()
    text_format = replace(FORMATS["compact"], before=before)
    made = tiny.rollout(policy, "1+2", response, stop=stop)
    problem = replace(made.prompt.problem, answer="3")
    return replace(made, prompt=make_prompt(policy, text_format, problem))


def outcome(rollout: Rollout) -> Outcome:
    [episode] = grade_rollouts(tiny.policy(), tiny.task(), [rollout])
    return episode.reward.outcome


@pytest.mark.parametrize("before", ["</scratch>3", "<scratch>", "<scratch></scratch>"])
def test_tags_in_the_prompt_have_no_say(before: str) -> None:
    assert outcome(answered("3", before=before)) is Outcome.CORRECT
    assert outcome(answered("4", before=before)) is Outcome.WRONG
    assert outcome(answered("", before=before)) is Outcome.UNPARSEABLE


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<scratch>1+2</scratch>3", Outcome.CORRECT),
        ("<scratch>3</scratch>4", Outcome.WRONG),
        ("<scratch></scratch>4</scratch>3", Outcome.CORRECT),
        ("<scratch></scratch>3</scratch>4", Outcome.WRONG),
        ("<scratch>3", Outcome.UNPARSEABLE),
        ("3+0", Outcome.UNPARSEABLE),
    ],
)
def test_the_answer_is_what_stands_after_the_last_closing_tag(response: str, expected: Outcome) -> None:
    assert outcome(answered(response)) is expected


def test_a_response_that_was_cut_earns_nothing_whatever_it_says() -> None:
    assert outcome(answered("3", stop=False)) is Outcome.TRUNCATED


def test_the_stop_token_and_only_it_is_left_out_of_the_text() -> None:
    policy = tiny.policy()
    assert response_text(policy, answered("<scratch>1</scratch>3")) == "<scratch>1</scratch>3"
    assert response_text(policy, answered("12", stop=False)) == "12"
    assert response_text(policy, answered("")) == ""


def test_groups_are_the_consecutive_episodes_of_a_prompt() -> None:
    episodes = grade_rollouts(tiny.policy(), tiny.task(), [answered("3"), answered("4"), answered("5"), answered("6")])
    groups = into_groups(episodes, 2)
    assert [[e.response for e in group.episodes] for group in groups] == [["3", "4"], ["5", "6"]]


def test_the_tasks_own_extraction_rule_cuts_the_answer_and_the_one_that_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tagged:
        grader = "integer"
        grader_options: ClassVar[dict[str, Any]] = {"extraction": "answer"}

    responses = ["so <answer>3</answer>", "3", "<scratch><answer>3</answer></scratch><answer>4</answer>"]
    written = iter(responses)  # the tiny tokenizer has no letters
    monkeypatch.setattr("latentpad.training.episodes.response_text", lambda *_: next(written))
    task = cast("Task", Tagged())
    episodes = grade_rollouts(tiny.policy(), task, [answered("3") for _ in responses])
    assert [e.reward.outcome for e in episodes] == [Outcome.CORRECT, Outcome.UNPARSEABLE, Outcome.WRONG]
    assert [shown_answer(task, response) for response in responses] == ["3", None, "4"]
    assert shown_answer(tiny.task(), "<scratch>a</scratch> 8") == "8"

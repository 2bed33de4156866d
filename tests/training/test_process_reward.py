"""The upper control: half for the answer, half for steps that a solver accepts; and what refuses to be one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.algorithms import Needs
from latentpad.formats import get_format
from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Recipe
from latentpad.tasks import build_task, worked
from latentpad.training.episodes import grade_rollouts
from latentpad.training.process_reward import works
from latentpad.training.signal import training_signal, verdicts
from latentpad.types import Episode, Group
from tests import tiny
from tests.test_preflight import AnswersOnly

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.tasks import Task

GOLD = "1+2,C:0\n,3C:0\n03"
OTHER = "1+3,C:0\n,4C:0\n04"  # right steps of another problem
POLICY = tiny.policy()


def group_of(*responses: str) -> Group:
    """To 1+2, whose gold answer is 3."""
    rollouts = [tiny.rollout(POLICY, "1+2", response) for response in responses]
    problem = replace(rollouts[0].prompt.problem, answer="3")
    prompt = replace(rollouts[0].prompt, problem=problem)
    episodes = grade_rollouts(POLICY, tiny.task(), [replace(rollout, prompt=prompt) for rollout in rollouts])
    return Group(prompt, tuple(episodes))


def signal(group: Group, task: Task | None = None, **changes: Any) -> list[float]:
    recipe = tiny.recipe("rl", rl={"signal": "process"}, **changes)
    return training_signal([group], POLICY, task or tiny.task(), recipe, Needs(), 0)[0]


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (f"<scratch>{GOLD}</scratch>3", 1.0),
        (f"<scratch>{GOLD}</scratch>4", 0.5),  # right steps, wrong answer
        (f"<scratch>{GOLD}</scratch>", 0.5),
        ("3", 0.5),  # right answer, no steps
        (f"<scratch>{OTHER}</scratch>3", 0.5),
        (f"<scratch>{OTHER}</scratch>4", 0.0),
        (f"<scratch>{GOLD.replace(',3', ',4')}</scratch>3", 0.5),
        ("<scratch></scratch>3", 0.5),
        (f"<scratch>{GOLD}", 0.0),  # never closed
        (f"{GOLD}</scratch>3", 0.5),  # never opened
        (f"1<scratch>{GOLD}</scratch>3", 0.5),  # not in the scratchpad alone
        (f"<scratch>{GOLD}</scratch>{GOLD}</scratch>3", 0.5),
        (f"<scratch><scratch>{GOLD}</scratch>3", 0.5),
        ("4", 0.0),
    ],
)
def test_half_is_for_the_answer_and_half_for_steps_that_lead_to_it(response: str, value: float) -> None:
    assert signal(group_of(response)) == [value]


def test_the_reward_that_is_reported_and_the_ladder_go_by_the_answer_alone() -> None:
    group = group_of(f"<scratch>{GOLD}</scratch>4", "3")
    assert [e.reward.value for e in group.episodes] == [0.0, 1.0]
    assert verdicts([group], tiny.task(), tiny.recipe("rl", rl={"signal": "process"})) == [[False, True]]


def test_steps_are_read_without_the_formats_line_breaks() -> None:
    [plain] = group_of("3").episodes
    br = get_format("nye").line_break
    for inside, right in ((f"{br}{GOLD}{br}", True), (GOLD, True), (f"{br}{br}{GOLD}{br}", False)):
        assert (
            works(worked(tiny.task()), Episode(plain.rollout, f"<scratch>{inside}</scratch>\n3", plain.reward), br)
            is right
        )


def test_length_costs_what_it_does_for_answers() -> None:
    recipe = tiny.recipe("rl", rl={"signal": "process", "half_length": 16})
    group = group_of(f"<scratch>{GOLD}</scratch>3")  # 16 tokens in the scratchpad
    assert len(GOLD) == 16
    assert training_signal([group], POLICY, tiny.task(), recipe, Needs(), 0) == [[0.5]]


def test_a_task_that_reads_no_steps_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^rl\.signal: 'process' needs a task that reads worked steps; AnswersOnly"):
        signal(group_of("3"), AnswersOnly(tiny.task()))  # type: ignore[arg-type]


def test_preflight_refuses_what_cannot_be(recipe_data: dict[str, Any], tmp_path: Path) -> None:
    recipe_data["rl"]["signal"] = "process"
    check_recipe(Recipe.model_validate(recipe_data))
    rows = "".join(f'{{"question": "q{i}", "answer": "{i}"}}\n' for i in range(60))
    (tmp_path / "data.jsonl").write_text(rows)
    plain = {"name": "jsonl", "path": str(tmp_path / "data.jsonl")}
    assert build_task(Recipe.model_validate(recipe_data | {"task": plain}).task)
    for change, line in (
        ({"task": plain, "format": "lines"}, "rl.signal: 'process' needs a task that reads worked steps; JsonLines"),
        ({"scratchpad": "empty"}, "rl.signal: 'process' pays for worked steps, and scratchpad 'empty' allows none"),
        ({"algorithm": {"name": "dapo"}}, "rl.signal: 'process' pays for steps where answers earn alike"),
    ):
        with pytest.raises(RecipeError) as error:
            check_recipe(Recipe.model_validate(recipe_data | change))
        assert str(error.value).startswith(line)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vote", "format", "shuffled"])
def test_a_signal_without_the_grader_cannot_have_its_groups_picked_by_it(name: str, recipe_data: Any) -> None:
    recipe_data["rl"]["signal"] = name
    check_recipe(Recipe.model_validate(recipe_data))
    with pytest.raises(RecipeError, match=rf"^rl\.signal: '{name}' does without the grader, and algorithm.sampling_ro"):
        check_recipe(Recipe.model_validate(recipe_data | {"algorithm": {"name": "dapo"}}))

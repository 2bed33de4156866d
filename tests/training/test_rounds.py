"""The rounds of expert iteration before anything is sampled: their steps, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from latentpad.launch import Launch, refuse_unlike
from latentpad.preflight import check_recipe
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.training.rounds import shared_out
from tests import tiny

if TYPE_CHECKING:
    from latentpad.recipe.schema import Recipe

TRAINING = {"steps": 6, "checkpoint_every": 6, "learning_rate": 0.01, "micro_batch_tokens": 128}


def recipe(**changes: Any) -> Recipe:
    return tiny.recipe("expert_iteration", **({"training": TRAINING} | changes))


@pytest.mark.parametrize(
    ("steps", "rounds", "growth", "expected"),
    [(10, 1, 1.0, [10]), (10, 4, 1.0, [3, 2, 3, 2]), (7, 3, 2.0, [1, 2, 4]), (100, 3, 1.2, [27, 33, 40])],
)
def test_steps_are_shared_out_in_proportion_and_none_is_lost(
    steps: int, rounds: int, growth: float, expected: list[int]
) -> None:
    assert shared_out(steps, rounds, growth) == expected
    assert sum(expected) == steps


@pytest.mark.parametrize("growth", [1.0, 30.0, 1e300])
def test_a_round_without_a_step_is_refused(growth: float) -> None:
    with pytest.raises(RecipeError, match=r"^training.steps: got 3; 4 rounds with a growth of"):
        shared_out(3, 4, growth)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"expert_iteration": {"rounds": 9}}, "training.steps: got 6; 9 rounds"),
        ({"training": {**TRAINING, "warmup_steps": 3}}, "training.warmup_steps: got 3; each round warms up anew"),
        ({"expert_iteration": {"keep_per_prompt": 5}}, "expert_iteration.keep_per_prompt: got 5, which is more than"),
        ({"expert_iteration": {"rounds": 1, "growth": 2.0}}, "expert_iteration: 'restart' and 'growth' are of several"),
        ({"expert_iteration": {"cells": ["digits=5"]}}, "expert_iteration.cells: unknown cell 'digits=5'"),
        ({"expert_iteration": {"hint": "{question} ({answer})"}}, "expert_iteration.hint: the tokenizer cannot spell"),
        ({"expert_iteration": {"hint": "{question}{answer}{why}"}}, "expert_iteration.hint: got '{question}{answer}"),
        ({"expert_iteration": {"hint": "{question}{answer}" * 20}}, "expert_iteration.hint: the hinted prompt of digi"),
        ({"rollout": {"max_new_tokens": 2}}, "rollout.max_new_tokens: got 2; the longest gold response"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    made = recipe(**changes)
    with pytest.raises(RecipeError) as caught:
        check_recipe(made)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_check_says_how_the_steps_are_shared_out() -> None:
    assert "2 rounds of 3, 3 steps, each on right responses of 8 prompts x 4" in check_recipe(recipe())


def test_deepspeed_is_refused() -> None:
    refuse_unlike(recipe(), Launch(world_size=2))
    with pytest.raises(MachineError, match="starts its optimizer anew each round"):
        refuse_unlike(recipe(), Launch(deepspeed={"zero_optimization": {"stage": 1}}))

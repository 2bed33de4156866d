"""What a recipe may say of an RL run, and the one line for what cannot be meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key, dump, load_recipe
from latentpad.recipe.rl_schema import HealthSection, KLSection, LadderSection
from latentpad.recipe.schema import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Written = Callable[..., Path]
    Data = dict[str, Any]

KL = {"coef": 0.1}
RUNGS = {"rungs": ["digits=1", "digits=2"]}
FULL = {
    "half_length": 20,
    "epochs": 2,
    "minibatches": 4,
    "entropy_coef": 0.01,
    "kl": {"coef": 0.1, "reference": "moving", "refresh_every": 5, "target": 0.02, "estimator": "k2"},
    "ladder": {**RUNGS, "window": 8},
}


def test_all_of_it_together_loads_and_reads_back_the_same(written: Written, recipe_data: Data) -> None:
    recipe_data["rl"] |= FULL
    recipe_data["health"] = {"action": "roll_back", "window": 3}
    recipe = load_recipe(written(recipe_data))
    section = recipe.rl_section
    assert section.kl == KLSection(coef=0.1, reference="moving", refresh_every=5, target=0.02, estimator="k2")
    assert section.ladder == LadderSection(rungs=["digits=1", "digits=2"], window=8)
    assert recipe.health == HealthSection(action="roll_back", window=3)
    assert load_recipe(written(dump(recipe))) == recipe


def test_what_is_left_out_changes_nothing(written: Written, recipe_data: Data) -> None:
    section = load_recipe(written(recipe_data)).rl_section
    assert (section.kl, section.ladder, section.half_length, section.cells) == (None, None, None, None)
    assert (section.epochs, section.minibatches, section.entropy_coef, section.signal) == (1, 1, 0.0, "answer")


@pytest.mark.parametrize(
    ("key", "value"), [*FULL.items(), ("kl", KL), ("kl", {**KL, "place": "reward"}), ("cells", ["digits=1"])]
)
def test_every_key_has_a_part_in_what_decides_a_result(
    written: Written, recipe_data: Data, key: str, value: object
) -> None:
    before = content_key(load_recipe(written(recipe_data)))
    recipe_data["rl"][key] = value
    assert content_key(load_recipe(written(recipe_data))) != before


MOVING = "rl.kl: 'refresh_every' goes with 'reference: moving', and that needs it"


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            {"kl": {**KL, "place": "reward", "estimator": "k3"}},
            "rl.kl: 'estimator' is of KL in the loss; in the reward it is always k1: remove it",
        ),
        ({"kl": {**KL, "refresh_every": 5}}, MOVING),
        ({"kl": {**KL, "reference": "moving"}}, MOVING),
        ({"kl": {**KL, "reference": "runs/a", "refresh_every": 5}}, MOVING),
        ({"kl": {}}, "rl.kl.coef: missing: this key is required"),
        ({"kl": {"coef": 0.0}}, "rl.kl.coef: got 0.0; input should be greater than 0"),
        ({"kl": {**KL, "target": 0.0}}, "rl.kl.target: got 0.0; input should be greater than 0"),
        ({"kl": {**KL, "estimator": "k1"}}, "rl.kl.estimator: got 'k1'; allowed: 'k2' or 'k3'"),
        ({"kl": {**KL, "place": "los"}}, "rl.kl.place: got 'los'; did you mean 'loss'? allowed: 'loss' or 'reward'"),
        (
            {"kl": {**KL, "refrence": "base"}},
            "rl.kl.refrence: unknown key 'refrence'; did you mean 'reference'? (allowed: coef, estimator, place,"
            " reference, refresh_every, target)",
        ),
        ({"ladder": RUNGS, "cells": ["digits=1"]}, "rl: give 'cells' or a 'ladder', not both"),
        (
            {"ladder": {"rungs": ["digits=1", "digits=2", "digits=1"]}},
            "rl.ladder: 'rungs' ['digits=1', 'digits=2', 'digits=1']: each may be named once",
        ),
        (
            {"ladder": {"rungs": ["digits=1"]}},
            "rl.ladder.rungs: got ['digits=1']; list should have at least 2 items after validation, not 1",
        ),
        (
            {"ladder": {**RUNGS, "promote_at": 1.5}},
            "rl.ladder.promote_at: got 1.5; input should be less than or equal to 1",
        ),
        (
            {"ladder": {**RUNGS, "frontier_share": 0.0}},
            "rl.ladder.frontier_share: got 0.0; input should be greater than 0",
        ),
        ({"half_length": 0}, "rl.half_length: got 0; input should be greater than 0"),
        ({"epochs": 0}, "rl.epochs: got 0; input should be greater than 0"),
        ({"minibatches": 0}, "rl.minibatches: got 0; input should be greater than 0"),
        ({"entropy_coef": -0.1}, "rl.entropy_coef: got -0.1; input should be greater than or equal to 0"),
        (
            {"signal": "randm"},
            "rl.signal: got 'randm'; did you mean 'random'? allowed: 'answer', 'random', 'vote', 'shuffled', 'format' "
            "or 'process'",
        ),
        ({"cells": []}, "rl.cells: got []; list should have at least 1 item after validation, not 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    written: Written, recipe_data: Data, section: Data, line: str
) -> None:
    recipe_data["rl"] |= section
    path = written(recipe_data)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: {line}"


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"action": "rollback"}, "health.action: got 'rollback'; did you mean 'roll_back'? allowed: 'warn', 'stop' or"),
        ({"window": 0}, "health.window: got 0; input should be greater than 0"),
        ({"step_factor": 1.0}, "health.step_factor: got 1.0; input should be less than 1"),
        ({"gradient_rise": 1.0}, "health.gradient_rise: got 1.0; input should be greater than 1"),
        ({"windw": 3}, "health.windw: unknown key 'windw'; did you mean 'window'? (allowed: action, gradient_rise, "),
    ],
)
def test_alarms_that_cannot_be_meant_are_refused_in_one_line(
    written: Written, recipe_data: Data, section: Data, line: str
) -> None:
    path = written(recipe_data | {"health": section})
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: {line}")


def test_health_is_of_an_rl_run(written: Written, recipe_data: Data) -> None:
    del recipe_data["rl"], recipe_data["algorithm"]
    recipe_data |= {"method": "supervised", "supervised": {"target": "answer", "examples_per_step": 2}, "health": {}}
    path = written(recipe_data)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: recipe: section 'health' is not used by method 'supervised': remove it"


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (
            "rl",
            {"ladder": {"rungs": ["digits=1", "digits=3"]}},
            "rl.ladder.rungs: unknown cell 'digits=3'; did you mean 'digits=2'? (allowed: digits=1, digits=2)",
        ),
        (
            "rl",
            {"kl": {"coef": 0.1, "reference": "bse"}},
            "rl.kl.reference: got 'bse'; expected base, moving, or a checkpoint",
        ),
        (
            "algorithm",
            {"name": "dapo", "overlong_buffer": 40},
            "algorithm.overlong_buffer: got 40; expected less than rollout.max_new_tokens (40)",
        ),
        (
            "algorithm",
            {"name": "ppo", "critic": {"pretraining_steps": 2}},
            "algorithm.critic.pretraining_steps: got 2; expected fewer than training.steps (2): they are the first of"
            " them",
        ),
    ],
)
def test_what_an_rl_recipe_names_must_be_there_and_fit(recipe_data: Data, key: str, value: Data, line: str) -> None:
    recipe_data[key] |= value
    with pytest.raises(RecipeError) as error:
        check_recipe(Recipe.model_validate(recipe_data))
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rl", {"ladder": {"rungs": ["digits=2", "digits=1"]}}),
        ("rl", {"kl": {"coef": 0.1, "reference": "."}}),
        ("algorithm", {"name": "dapo", "overlong_buffer": 39}),
        ("algorithm", {"name": "ppo", "critic": {"pretraining_steps": 1}}),
    ],
)
def test_what_fits_just_so_is_good(recipe_data: Data, key: str, value: Data) -> None:
    recipe_data[key] |= value
    assert len(check_recipe(Recipe.model_validate(recipe_data))) == 4

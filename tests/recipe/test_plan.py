"""Arms of an experiment: what each takes from `shared`, from the arm it is like, and from the arm it starts from."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.preflight import check_plan
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import FROM_ARM, load_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Written = Callable[..., Path]
    Data = dict[str, Any]


@pytest.fixture
def experiment(recipe_data: Data) -> Data:
    """One arm trained on its own, one that starts from it, and one like that."""
    del recipe_data["name"]
    own = {key: recipe_data.pop(key) for key in ("method", "model", "rl", "algorithm")}
    return {
        "experiment": "small",
        "seeds": [0, 1],
        "shared": recipe_data,
        "arms": {
            "twin": {"like": "child", "description": "no pad", "rl": {"signal": "random"}},
            "child": {"from": "base"} | {key: deepcopy(own[key]) for key in ("method", "rl", "algorithm")},
            "base": own,
        },
    }


def refused(path: Path) -> str:
    with pytest.raises(RecipeError) as error:
        load_plan(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def test_parents_come_before_children(written: Written, experiment: Data) -> None:
    plan = load_plan(written(experiment))
    assert [(arm.name, arm.start_from) for arm in plan.arms] == [("base", None), ("twin", "base"), ("child", "base")]
    assert (plan.name, plan.seeds) == ("small", (0, 1))


def test_an_arm_starts_from_the_checkpoint_of_its_parent(written: Written, experiment: Data) -> None:
    base, twin, child = load_plan(written(experiment)).arms
    assert (twin.recipe.model.path, child.recipe.model.path) == (FROM_ARM, FROM_ARM)
    assert base.recipe.model.path is None


def test_an_arm_like_another_differs_in_what_it_says_only(written: Written, experiment: Data) -> None:
    _, twin, child = load_plan(written(experiment)).arms
    assert (twin.recipe.rl_section.signal, child.recipe.rl_section.signal) == ("random", "answer")
    same = twin.recipe.rl_section.model_copy(update={"signal": "answer"})
    assert twin.recipe.model_copy(update={"name": "child", "rl": same}) == child.recipe
    assert (twin.description, child.description) == ("no pad", "")


def test_an_arm_sets_its_keys_over_the_shared_ones(written: Written, experiment: Data) -> None:
    experiment["arms"]["child"]["training"] = {"steps": 9}
    base, twin, child = load_plan(written(experiment)).arms
    steps = [(arm.recipe.training.steps, arm.recipe.training.learning_rate) for arm in (base, child, twin)]
    assert steps == [(2, 3e-4), (9, 3e-4), (9, 3e-4)]


def test_another_algorithm_takes_over_no_options(written: Written, experiment: Data) -> None:
    experiment["arms"]["child"]["algorithm"]["scale"] = "none"
    experiment["arms"]["twin"]["algorithm"] = {"name": "some.where:Else"}
    options = {arm.name: arm.recipe.algorithm for arm in load_plan(written(experiment)).arms}
    assert options["child"] is not None
    assert options["child"].options == {"scale": "none"}
    assert options["twin"] is not None
    assert options["twin"].options == {}


def test_an_override_reaches_an_arm_and_all_arms(written: Written, experiment: Data) -> None:
    path = written(experiment)
    plan = load_plan(path, ["seeds=[3]", "shared.training.steps=7", "arms.base.training.steps=8"])
    assert plan.seeds == (3,)
    assert [arm.recipe.training.steps for arm in plan.arms] == [8, 7, 7]


def test_arms_that_start_from_each_other_are_refused(written: Written, experiment: Data) -> None:
    experiment["arms"]["base"] = {"from": "twin"} | experiment["arms"]["child"] | {"from": "twin"}
    assert refused(written(experiment)) == "arms start from each other in a circle: twin, child, base"


def test_an_arm_that_starts_from_itself_is_refused(written: Written, experiment: Data) -> None:
    experiment["arms"]["child"]["from"] = "child"
    assert refused(written(experiment)) == "arms start from each other in a circle: twin, child"


def test_arms_that_are_like_each_other_are_refused(written: Written, experiment: Data) -> None:
    experiment["arms"]["child"]["like"] = "twin"
    assert refused(written(experiment)) == (
        "arms.child.like: arms are like each other in a circle: twin -> child -> twin"
    )


@pytest.mark.parametrize("key", ["like", "from"])
def test_an_arm_that_is_not_there_is_named_with_the_nearest(written: Written, experiment: Data, key: str) -> None:
    experiment["arms"]["child"][key] = "bose"
    line = f"arms.child.{key}: unknown arm 'bose'; did you mean 'base'? (allowed: base, child, twin)"
    del experiment["arms"]["twin"]
    assert refused(written(experiment)) == line.replace(", twin", "")


def test_a_fault_in_an_arm_names_the_arm(written: Written, experiment: Data) -> None:
    experiment["arms"]["child"]["rl"]["group_sise"] = 4
    experiment["arms"]["twin"] = {"like": "base"}
    assert refused(written(experiment)).startswith(
        "arms.child: rl.group_sise: unknown key 'group_sise'; did you mean 'group_size'?"
    )


def test_an_arm_that_starts_from_another_brings_no_sizes(written: Written, experiment: Data) -> None:
    experiment["arms"]["child"]["model"] = experiment["arms"]["base"]["model"]
    assert "model: give exactly one of 'path'" in refused(written(experiment))


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seeds", [1, 1], "seeds: a seed is listed twice: [1, 1]"),
        ("seeds", [-1], "seeds.0: got -1; input should be greater than or equal to 0"),
        ("seeds", [], "seeds: got []; list should have at least 1 item after validation, not 0"),
        ("seeds", 1, "seeds: got 1; input should be a valid list"),
        ("arms", {}, "arms: got {}; dictionary should have at least 1 item after validation, not 0"),
        (
            "sheared",
            {},
            "sheared: unknown key 'sheared'; did you mean 'shared'? (allowed: arms, experiment, headline, published, "
            "seeds, shared)",
        ),
    ],
)
def test_a_fault_of_the_experiment_is_one_line(
    written: Written, experiment: Data, key: str, value: object, line: str
) -> None:
    assert refused(written(experiment | {key: value})) == line


@pytest.mark.parametrize(("key", "fix"), [("seed", "in 'seeds'"), ("name", "its key in 'arms'")])
@pytest.mark.parametrize("where", ["shared", "arms.base"])
def test_what_the_experiment_sets_itself_is_refused(
    written: Written, experiment: Data, where: str, key: str, fix: str
) -> None:
    section = experiment["shared"] if where == "shared" else experiment["arms"]["base"]
    section[key] = 1
    with pytest.raises(RecipeError, match=f"{where}.{key}: .*{fix}: remove it"):
        load_plan(written(experiment))


BAND = {"label": "others", "cells": ["digits=1"], "low": 0.6, "high": 0.9}


def test_what_others_published_stands_beside_the_arms(written: Written, experiment: Data) -> None:
    plan = load_plan(written(experiment | {"published": [BAND]}))
    assert [band.model_dump() for band in plan.published] == [BAND]
    assert load_plan(written(experiment)).published == ()
    assert load_plan(written(experiment | {"headline": "digits=1"})).headline == "digits=1"


def test_a_published_range_that_cannot_be_is_refused(written: Written, experiment: Data) -> None:
    assert refused(written(experiment | {"published": [BAND | {"low": 0.95}]})) == (
        "published.0: 'low' 0.95 is above 'high' 0.9"
    )
    path = written(experiment | {"published": [BAND | {"cells": ["digit=1"]}]})
    with pytest.raises(RecipeError, match="published 'others': cell 'digit=1': expected digits=N"):
        check_plan(load_plan(path))
    with pytest.raises(RecipeError, match="headline: cell '9': expected digits=N"):
        check_plan(load_plan(written(experiment | {"headline": "9"})))

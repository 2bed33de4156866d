"""What arms differ in is told in words, and refused where nobody declared it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from latentpad.experiments.comparison import compare_folders
from latentpad.experiments.differences import flat
from latentpad.recipe.errors import RecipeError
from tests import tiny
from tests.experiments.finished_runs import STEP, write_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RIGHT = {"digits=1": "1100"}


def compare(home: Path, **options: Any) -> dict[str, Any]:
    return compare_folders([home], **options)


def started(home: Path, seed: int = 0) -> dict[str, Any]:
    return {"path": str(home / "base" / f"seed-{seed}" / "checkpoints" / str(STEP))}


def refusal(home: Path, differ: Sequence[str] = ()) -> str:
    with pytest.raises(RecipeError) as error:
        compare(home, differ=differ)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_arms_of_one_recipe_may_be_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "b", 0, RIGHT, sandbox={"slots": 2})
    assert compare(tmp_path)["differences"] == ["b against a: the same recipe"]


def test_an_undeclared_key_is_refused_with_both_values_and_the_fix(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "b", 0, RIGHT, training={"learning_rate": 0.01}, rl={"group_size": 2})
    line = refusal(tmp_path)
    assert "b and a differ in what nobody declared: " in line
    assert "training.learning_rate (0.01 and 0.003), rl.group_size (2 and 4)" in line
    assert line.endswith("if that is meant: --differ training.learning_rate --differ rl.group_size")
    assert "rl.group_size" in refusal(tmp_path, ["training"])
    found = compare(tmp_path, differ=["training", "rl.group_size"])["differences"]
    assert found == ["b against a: training.learning_rate 0.01 instead of 0.003; rl.group_size 2 instead of 4"]


def test_a_section_that_only_one_has_is_one_difference(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 0, RIGHT, method="supervised")
    write_run(tmp_path, "b", 0, RIGHT)
    line = refusal(tmp_path)
    assert "method (rl and supervised)" in line
    assert "rl (only b), algorithm (only b), supervised (only a)" in line
    (told,) = compare(tmp_path, differ=["method", "rl", "algorithm", "supervised"])["differences"]
    assert told.startswith("b against a: method rl instead of supervised; ")
    assert "algorithm grpo" in told
    assert "no supervised section" in told
    assert "rl prompts_per_step 4, group_size 4" in told


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"task": {"digits": [1, 2]}}, "task.digits ([1, 2] and [1])"),
        ({"format": "lines"}, "format (lines and compact)"),
        ({"evaluation": {"split": "validation"}}, "evaluation.split (validation and test)"),
        ({"evaluation": {"problems": 11}}, "evaluation.problems (11 and 10)"),
        ({"evaluation": {"max_new_tokens": 33}}, "evaluation.max_new_tokens (33 and 32)"),
        ({"evaluation": {"beyond": ["digits=2"]}}, "evaluation.beyond (['digits=2'] and [])"),
    ],
)
def test_other_problems_are_never_comparable(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "b", 0, RIGHT, **changes)
    assert f"not comparable, differ in {key}" in refusal(tmp_path)
    assert "answer other problems" in refusal(tmp_path, [key.split(" ")[0]])


def test_what_is_measured_beside_may_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "b", 0, RIGHT, evaluation={"pass_at": 4, "pass_problems": 2, "every": 2, "every_problems": 5})
    assert compare(tmp_path)["differences"] == ["b against a: the same recipe"]


@pytest.mark.parametrize(
    ("machine", "key"),
    [
        ({"git_commit": "def"}, "environment.git_commit (def and abc)"),
        ({"threads": 2}, "environment.threads (2 and 1)"),
        ({"cpu": "Y"}, "environment.cpu (Y and X)"),
        ({"packages": {"torch": "2.14", "peft": None}}, "environment.packages.torch (2.14 and 2.13)"),
    ],
)
def test_another_machine_is_refused_unless_it_is_declared(tmp_path: Path, machine: dict[str, Any], key: str) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "a", 1, RIGHT)
    write_run(tmp_path, "b", 0, RIGHT)
    write_run(tmp_path, "b", 1, RIGHT, machine=machine)  # one seed is enough
    assert refusal(tmp_path).endswith(f"{key}; if that is meant: --differ environment")
    assert key.partition(" ")[0] in compare(tmp_path, differ=["environment"])["differences"][0]


def test_arms_must_start_from_the_same_base(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "x", "base", seed, RIGHT, method="pretrain")
        write_run(tmp_path / "y", "base", seed, RIGHT, method="pretrain")
        write_run(tmp_path / "x", "a", seed, RIGHT, model=started(tmp_path / "x", seed))
        write_run(tmp_path / "y", "b", seed, RIGHT, model=started(tmp_path / "y", seed))
    arms = [tmp_path / "x" / "a", tmp_path / "y" / "b"]
    assert compare_folders(arms)["differences"] == ["b against a: the same recipe"]  # other folders, the same content
    (tmp_path / "y" / "base" / "seed-1" / "key.txt").write_text("other\n")
    with pytest.raises(RecipeError, match=r"model.path \(other step 8 and key-base-1 step 8\); .* --differ model.path"):
        compare_folders(arms)
    assert "starts from base" in compare_folders(arms, differ=["model.path"])["differences"][0]


def test_a_start_is_found_again_where_the_experiment_was_moved(tmp_path: Path) -> None:
    write_run(tmp_path / "x", "base", 0, RIGHT, method="pretrain")
    for arm in ("a", "b"):
        write_run(tmp_path / "x", arm, 0, RIGHT, model=started(tmp_path / "x"))
    (tmp_path / "x").rename(tmp_path / "z")
    found = compare_folders([tmp_path / "z" / "a", tmp_path / "z" / "b"])
    assert found["arms"][0]["total_costs"]["samples"] == [200]


def experiment(home: Path) -> None:
    """a and b start from base; b is like a with another algorithm and scratchpad."""
    home.mkdir()
    arms = {
        "base": {
            "method": "pretrain",
            "model": {"scratch": tiny.SIZES.model_dump()},
            "pretrain": {"documents_per_step": 8},
        },
        "a": {
            "from": "base",
            "description": "x",
            "method": "rl",
            "rl": {"group_size": 4},
            "algorithm": {"name": "grpo"},
        },
        "b": {"like": "a", "algorithm": {"name": "rloo"}, "scratchpad": "empty"},
    }
    (home / "experiment.yaml").write_text(
        yaml.safe_dump({"experiment": "x", "shared": {}, "arms": arms}, sort_keys=False)
    )


def test_an_experiment_declares_what_its_arms_set(tmp_path: Path) -> None:
    home = tmp_path / "x"
    experiment(home)
    write_run(home, "base", 0, RIGHT, method="pretrain")
    write_run(home, "a", 0, RIGHT, model=started(home))
    write_run(home, "b", 0, RIGHT, model=started(home), algorithm={"name": "rloo"}, scratchpad="empty")
    found = compare(home)
    assert [arm["arm"] for arm in found["arms"]] == ["base", "a", "b"]  # its order
    assert "starts from base" in found["differences"][0]
    (told,) = compare_folders([home / "a", home / "b"])["differences"]
    assert told == "b against a: scratchpad empty instead of free; algorithm rloo instead of grpo"


def test_what_an_experiment_does_not_declare_is_refused_within_it_too(tmp_path: Path) -> None:
    home = tmp_path / "x"
    experiment(home)
    write_run(home, "a", 0, RIGHT)
    write_run(home, "b", 0, RIGHT, training={"steps": 9})  # a run of an older version of the arm
    assert "training.steps (9 and 8)" in refusal(home)


def test_two_experiments_declare_nothing_for_each_other(tmp_path: Path) -> None:
    for name in ("x", "y"):
        experiment(tmp_path / name)
    write_run(tmp_path / "x", "a", 0, RIGHT)
    write_run(tmp_path / "y", "b", 0, RIGHT, scratchpad="empty")
    with pytest.raises(RecipeError, match="scratchpad"):
        compare_folders([tmp_path / "x", tmp_path / "y"])


def test_a_key_that_no_arm_differs_in_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "b", 0, RIGHT, scratchpad="empty")
    line = refusal(tmp_path, ["scratchpads"])
    assert line == "--differ scratchpads: no arm differs in it; did you mean 'scratchpad'? they differ in scratchpad"


def test_seeds_of_one_arm_that_are_not_one_thing_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 0, RIGHT)
    write_run(tmp_path, "a", 1, RIGHT, training={"steps": 9})
    write_run(tmp_path, "b", 0, RIGHT)
    assert refusal(tmp_path, ["training"]).endswith("in training.steps (9 and 8): not one arm")


def test_sections_become_dotted_keys() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [1]}) == {"a.b.c": 1, "d": [1]}

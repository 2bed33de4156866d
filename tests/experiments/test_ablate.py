"""`latentpad ablate` in one process: what fails, what is taken over, what is declared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from latentpad.cli import main
from latentpad.recipe.load import load_plan
from latentpad.training.run_folder import locked
from tests.training.runs import assert_same_run

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_positions": 128}
RL = {"prompts_per_step": 4, "group_size": 4}
ARMS: dict[str, dict[str, Any]] = {
    "base": {
        "method": "pretrain",
        "model": {"scratch": SIZES},
        "pretrain": {"documents_per_step": 4, "scratchpad_share": 0.0},
    },
    "left": {"from": "base", "method": "rl", "rl": RL, "algorithm": {"name": "grpo"}},
    "child": {"like": "left", "from": "left"},
    "right": {"like": "left", "rl": {"signal": "random"}},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = {
        "task": {"name": "addition", "digits": [1]},
        "format": "compact",
        "scratchpad": "empty",
        "rollout": {"max_new_tokens": 8, "chunk_size": 16},
        "evaluation": {"problems": 4, "max_new_tokens": 8},
        "training": {"steps": 2, "learning_rate": 0.01, "checkpoint_every": 1},
    }
    file = tmp_path_factory.mktemp("plan") / "plan.yaml"
    data = {"experiment": "small", "seeds": [0, 1], "shared": shared, "arms": ARMS}
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def whole(plan: Path) -> Path:
    out = plan.parent / "whole"
    assert main(["ablate", str(plan), "--out", str(out)]) == 0
    return out


def arms_of(out: Path) -> dict[str, dict[str, Any]]:
    return {arm["arm"]: arm for arm in json.loads((out / "summary.json").read_text())["arms"]}


def test_an_arm_that_fails_takes_with_it_what_starts_from_it_and_nothing_else(
    plan: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "right" / "seed-0" / "environment.json").mkdir(parents=True)  # a bug, as far as the run can tell
    with locked(out / "left" / "seed-1"):
        assert main(["ablate", str(plan), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("latentpad: 2 of 8 runs failed, 1 not run that start from them; ")
    assert "[8/8] child, seed 1: not run: left failed" in said.out
    arms = arms_of(out)
    seeds = {name: arm["seeds"] for name, arm in arms.items()}
    assert seeds == {"base": [0, 1], "left": [0], "child": [0], "right": [1]}
    assert arms["child"]["status"] == "seed 1 not run: left failed"
    assert arms["left"]["status"].startswith("seed 1 failed: ")
    assert "another process trains in it" in arms["left"]["status"]
    assert "IsADirectoryError" in (out / "right" / "seed-0" / "error.txt").read_text()
    assert_same_run(out / "right" / "seed-1", whole / "right" / "seed-1", steps=2)
    results = (out / "results.md").read_text()
    assert "**child**: seed 1 not run: left failed" in results
    row = next(line for line in results.splitlines() if line.startswith("| right |"))
    assert row.split("|")[2].strip().startswith("\u2013 / ")


def test_the_same_command_runs_what_had_failed(
    plan: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with locked(out / "base" / "seed-0"):
        assert main(["ablate", str(plan), "--out", str(out)]) == 2
    assert arms_of(out)["base"]["seeds"] == [1]
    capsys.readouterr()
    assert main(["ablate", str(plan), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("re-used") == 4
    assert arms_of(out)["right"]["status"] == "done"
    assert_same_run(out / "child" / "seed-0", whole / "child" / "seed-0", steps=2)


def test_finished_runs_of_the_same_content_are_taken_over_from_another_experiment(
    plan: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["ablate", str(plan), "--out", str(out), "--reuse", str(whole), "arms.left.training.learning_rate=0.02"]
    assert main(command) == 0
    said = capsys.readouterr().out
    for seed in (0, 1):
        assert f"base, seed {seed}: taken over from {whole / 'base' / f'seed-{seed}'}" in said
    assert said.count("taken over") == 2  # all others are of another content now: `like: left`
    assert_same_run(out / "base" / "seed-0", whole / "base" / "seed-0", steps=2)
    assert (whole / "base" / "seed-0" / "done.json").is_file()


def test_what_an_experiment_declares_stands_in_its_folder(plan: Path, whole: Path) -> None:
    declared = yaml.safe_load((whole / "experiment.yaml").read_text())
    assert declared["arms"]["child"] == {"like": "left", "from": "left", "description": ""}
    assert declared["arms"]["right"]["rl"] == {"signal": "random"}
    assert load_plan(whole / "experiment.yaml").arms == load_plan(plan).arms

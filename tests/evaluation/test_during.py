"""Evaluation while training: it sees the policy as it is at that step, and changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.experiments.run import evaluate_run, run_recipe
from latentpad.launch import Launch, refuse_unlike
from latentpad.recipe.errors import MachineError
from latentpad.training.checkpoint import newest_checkpoint
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.recipe.schema import Recipe

LOOKS = {"problems": 10, "max_new_tokens": 32, "every": 2, "every_problems": 7}
METHODS = ["pretrain", "supervised", "rl"]


def recipe(method: str, folder: Path, *, steps: int = 4, evaluation: dict[str, Any] = LOOKS) -> Recipe:
    start = {}
    if method != "pretrain":
        base = folder / "base"
        if not base.exists():
            tiny.policy().save(base)
        start = {"model": {"path": str(base)}}
    return tiny.recipe(method, training={"steps": steps, "checkpoint_every": 4}, evaluation=evaluation, **start)


def weights(run: Path) -> dict[str, Any]:
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    return torch.load(newest[1] / "training_state.pt", weights_only=True)["weights"]


def cells(run: Path, step: int) -> list[dict[str, Any]]:
    return json.loads((run / "eval" / f"{step}.json").read_text())["cells"]


@pytest.mark.parametrize("method", METHODS)
def test_there_is_an_evaluation_before_training_and_after_every_so_many_steps(method: str, tmp_path: Path) -> None:
    run_recipe(recipe(method, tmp_path), tmp_path / "run")
    steps = sorted(int(file.stem) for file in (tmp_path / "run" / "eval").glob("*.json"))
    assert steps == [0, 2, 4]
    assert [(c["cell"], c["decoding"], c["n"]) for c in cells(tmp_path / "run", 2)] == [("digits=1", "greedy", 7)]
    assert len(cells(tmp_path / "run", 4)) == 2  # at the end both decodings


@pytest.mark.parametrize("method", METHODS)
def test_what_is_seen_is_the_policy_of_that_step(method: str, tmp_path: Path) -> None:
    run_recipe(recipe(method, tmp_path, steps=3), tmp_path / "long")
    short = recipe(method, tmp_path, steps=2)
    run_recipe(short, tmp_path / "short")
    lines = (tmp_path / "long" / "eval" / "2.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == evaluate_run(tmp_path / "short", short)[2][:7]


@pytest.mark.parametrize("method", ["pretrain", "rl"])
def test_looking_on_changes_no_weight(method: str, tmp_path: Path) -> None:
    run_recipe(recipe(method, tmp_path), tmp_path / "seen")
    plain = {name: value for name, value in LOOKS.items() if not name.startswith("every")}
    run_recipe(recipe(method, tmp_path, evaluation=plain), tmp_path / "unseen")
    seen, unseen = weights(tmp_path / "seen"), weights(tmp_path / "unseen")
    assert all(torch.equal(seen[name], unseen[name]) for name in seen | unseen)


def test_the_trainer_of_deepspeed_cannot_be_looked_at(tmp_path: Path) -> None:
    sharded = Launch(deepspeed={"zero_optimization": {"stage": 2}})
    with pytest.raises(MachineError, match=r"evaluation\.every: DeepSpeed"):
        refuse_unlike(recipe("supervised", tmp_path), sharded)

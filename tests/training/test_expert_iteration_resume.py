"""A run of expert iteration that is stopped or killed anywhere ends in the bits of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from latentpad.cli import main
from latentpad.experiments.run import run_recipe
from latentpad.recipe.errors import Diverged
from latentpad.recipe.load import dump, load_recipe
from latentpad.training.expert_iteration import ExpertIteration
from latentpad.training.right_responses import RightResponses
from tests import tiny
from tests.distributed import ranks
from tests.training import runs, worker
from tests.training.runs import assert_same_run, metrics, saved

STEPS = 7
LORA = {"lora": tiny.LORA.model_dump()}
ROUNDS = {"prompts_per_round": 12, "samples_per_prompt": 4, "rows_per_step": 5, "cells": ["digits=1", "digits=2"]}
# Checkpoints at the borders of rounds and within them.
RUNS: dict[str, dict[str, Any]] = {
    "from the base, with a hint, LoRA": {
        "expert_iteration": ROUNDS | {"rounds": 3, "hint": "{answer}={question}", "keep_per_prompt": 2},
        "model": LORA,
        "every": 2,
    },
    "from the previous, growing": {
        "expert_iteration": ROUNDS | {"rounds": 3, "restart": "previous", "growth": 1.1},
        "model": {},
        "every": 3,
    },
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def write_recipe(name: str, base: Path, folder: Path) -> Path:
    made = tiny.recipe(
        "expert_iteration",
        expert_iteration=RUNS[name]["expert_iteration"],
        model={"path": str(base)} | RUNS[name]["model"],
        task={"name": "addition", "digits": [1, 2]},
        rollout={"max_new_tokens": 8, "chunk_size": 16},
        scratchpad="empty",
        training={"steps": STEPS, "checkpoint_every": RUNS[name]["every"], "schedule": "cosine", "warmup_steps": 1},
        evaluation={"problems": 4, "max_new_tokens": 8},
    )
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(dump(made))
    return folder / "recipe.yaml"


Undisturbed = Callable[[str], Path]


@pytest.fixture(scope="session")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The run of a recipe that nobody disturbed."""

    @cache
    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        run_recipe(load_recipe(write_recipe(name, base, folder)), folder / "run")
        return folder / "run"

    return run


class BrokenOffError(Exception):
    pass


@pytest.mark.parametrize("name", RUNS)
def test_broken_off_before_any_step_or_in_any_sampling_it_ends_in_the_same_bits(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, broken off at every step once and, within the sampling of each round, once more."""
    recipe = load_recipe(write_recipe(name, base, tmp_path))
    broken: set[tuple[str, int]] = set()

    def breaks(where: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(loop: Any, *args: Any, **options: Any) -> Any:
            place = (where, loop.state.step if isinstance(loop, ExpertIteration) else args[0])
            found = original(loop, *args, **options)
            if place not in broken:
                broken.add(place)
                raise BrokenOffError
            return found

        return call

    monkeypatch.setattr(ExpertIteration, "step", breaks("step", ExpertIteration.step))
    monkeypatch.setattr(ExpertIteration, "begin_round", breaks("restart", ExpertIteration.begin_round))
    monkeypatch.setattr(RightResponses, "_ask", breaks("sampling", RightResponses._ask))
    for _ in range(100):
        try:
            run_recipe(recipe, tmp_path / "run")
        except BrokenOffError:
            continue
        break

    assert {step for where, step in broken if where == "step"} == set(range(STEPS))
    assert {number for where, number in broken if where == "sampling"} == {0, 1, 2}
    assert len([place for place in broken if place[0] == "restart"]) == 3
    assert_same_run(tmp_path / "run", undisturbed(name), steps=STEPS)


@dataclass(frozen=True)
class KilledOnce:
    """Kills its process at the nth chunk that is graded, or the nth step, unless the file is there."""

    where: str
    countdown: int
    marker: Path

    def __call__(self) -> None:
        kind, method = {"chunk": (RightResponses, "_grade"), "step": (ExpertIteration, "step")}[self.where]
        original, left = getattr(kind, method), iter(range(self.countdown - 1, -1000, -1))

        def counted(*args: Any, **options: Any) -> Any:
            if next(left) == 0 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(kind, method, counted)


# Each round grades 3 chunks, and those of the hint; the rounds have 2, 3 and 2 steps.
@pytest.mark.parametrize(("where", "countdown"), [("chunk", 8), ("step", 3), ("step", 6)])
def test_killed_it_ends_in_the_same_bits(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, where: str, countdown: int
) -> None:
    name = next(iter(RUNS))
    recipe, run = write_recipe(name, base, tmp_path), tmp_path / "run"
    killer = KilledOnce(where, countdown, tmp_path / "killed")
    child = worker.start(recipe, run, killer)
    worker.finish(child)
    assert child.exitcode == -signal.SIGKILL
    assert worker.finish(worker.start(recipe, run, killer)) == 0
    assert_same_run(run, undisturbed(name), steps=STEPS)


def test_the_runs_that_are_disturbed_keep_learn_and_solve_some_problems(undisturbed: Undisturbed) -> None:
    for name in RUNS:
        records = metrics(undisturbed(name))
        assert all(0 < record["solved"] < 1 and record["grad_norm"] > 0.001 for record in records)
        assert {record["round"] for record in records} == {1, 2, 3}
        assert len({record["reward"] for record in records}) == 3
    hinted = metrics(undisturbed(next(iter(RUNS))))
    assert any(record["hinted_solved"] > 0 for record in hinted)
    state = saved(undisturbed(next(iter(RUNS))) / "checkpoints" / str(STEPS))
    assert state["/parts/round/begun"] == 3
    assert len(state["/parts/round/lengths"]) == hinted[-1]["kept"] > 0


def test_two_processes_do_what_one_does(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(next(iter(RUNS)), base, tmp_path)
    assert worker.finish(worker.start(recipe, tmp_path / "alone", ranks.plain_descent)) == 0
    found = ranks.trained(recipe, tmp_path / "together", also=ranks.plain_descent)
    ours, theirs = metrics(found), metrics(tmp_path / "alone")
    sums = ("loss", "grad_norm")  # in another order
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == {**other, **{name: pytest.approx(other[name], rel=2e-4) for name in sums}}
    assert (found / "proofs.txt").read_text().endswith("2 processes hold the same weights, to the bit\n")


def test_an_optimizer_step_that_diverges_changes_nothing(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(write_recipe(next(iter(RUNS)), base, tmp_path))
    rows = ExpertIteration.rows

    def spoilt(loop: ExpertIteration, number: int, at: int) -> Any:
        made = rows(loop, number, at)
        return made.take(range(len(made.rollouts)), scale=float("inf")) if loop.state.step == 2 else made

    monkeypatch.setattr(ExpertIteration, "rows", spoilt)
    with pytest.raises(Diverged, match="at step 3; no weight was changed"):
        run_recipe(recipe, tmp_path / "run")
    assert [record["step"] for record in metrics(tmp_path / "run")] == [1, 2]


def test_the_other_verbs_take_such_a_run(undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]) -> None:
    run = undisturbed(next(iter(RUNS)))
    assert main(["eval", str(run)]) == 0
    assert main(["sample", str(run), "1+2"]) == 0
    assert main(["check", str(run / "recipe.yaml")]) == 0
    said = capsys.readouterr().out
    assert "digits=1" in said
    assert "3 rounds of" in said
    effect = json.loads((run / "environment.json").read_text())["in_effect"]
    assert any("reference 0.0 MB" in line for line in effect)

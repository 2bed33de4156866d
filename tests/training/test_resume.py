"""Killed at any moment and started again, a run ends in the very bits of a run that nobody disturbed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from latentpad.algorithms import ALGORITHMS
from latentpad.recipe.load import dump
from latentpad.training.checkpoint import steps_in
from tests import tiny
from tests.training import runs, worker
from tests.training.runs import assert_same_run, metrics, saved

STEPS = 12
KILLS = 3
TRAINING = {"steps": STEPS, "checkpoint_every": 2, "learning_rate": 0.003, "schedule": "cosine", "warmup_steps": 2}
METHODS = ["pretrain", "supervised", "supervised-lora", "rl-lora", "rl-full"]

LORA = {"lora": tiny.LORA.model_dump()}

# Algorithms without a state of their own: what is new in each is what its step reads.
FEW_STEPS, FEW_KILLS = 6, 2
STATELESS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": {"name": "grpo", "scale": "batch"}, "rl": {"epochs": 2, "minibatches": 2}},
    "dr_grpo": {
        "algorithm": {"name": "dr_grpo"},
        "rl": {"half_length": 2, "epochs": 2},
        "scratchpad": "free",
        "rollout": {"max_new_tokens": 24},
        "evaluation": {"max_new_tokens": 24},
    },
    "rloo": {"algorithm": {"name": "rloo"}, "rl": {"entropy_coef": 0.01}},
    "reinforce_plus_plus": {
        "algorithm": {"name": "reinforce_plus_plus"},
        "rl": {"minibatches": 2, "kl": {"coef": 0.1, "place": "reward"}},
    },
    "reinforce_plus_plus with a baseline": {
        "algorithm": {"name": "reinforce_plus_plus", "baseline": True},
        "model": LORA,
        "rl": {"kl": {"coef": 0.1, "estimator": "k2"}},
    },
    "gspo": {"algorithm": {"name": "gspo"}, "rl": {"minibatches": 3}},
    "cispo": {"algorithm": {"name": "cispo"}, "rl": {"signal": "random"}},
    "signed": {"algorithm": {"name": "signed", "right": 0.1}, "rl": {"cells": ["digits=1"]}},
}

# Runs that carry more from step to step than a policy and its optimizer; they are killed at least 20 times each.
MANY_STEPS, MANY_KILLS, WRITES = 24, 20, 3
STATEFUL: dict[str, dict[str, Any]] = {
    "ppo with a model critic and adaptive KL": {
        "algorithm": {
            "name": "ppo",
            "critic": {"kind": "model", "lora_rank": 2, "minibatches": 2, "pretraining_steps": 4},
        },
        "model": LORA,
        "rl": {"epochs": 2, "minibatches": 2, "entropy_coef": 0.01, "kl": {"coef": 0.05, "target": 0.001}},
    },
    "ppo with a head critic and a moving reference": {
        "algorithm": {"name": "ppo", "critic": {"kind": "head", "pretraining_steps": 3, "loss_coef": 0.1}},
        "rl": {
            "minibatches": 2,
            "kl": {"coef": 0.05, "place": "reward", "reference": "moving", "refresh_every": 5, "target": 0.01},
        },
    },
    "dapo on a ladder": {
        "algorithm": {"name": "dapo", "sampling_rounds": 3, "overlong_buffer": 3},
        "task": {"name": "addition", "digits": [1, 2, 3]},
        "rl": {"ladder": {"rungs": ["digits=1", "digits=2", "digits=3"], "window": 300, "promote_at": 0.05}},
    },
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def write_recipe(name: str, base: Path, folder: Path) -> Path:
    if name in STATELESS:
        training = {"steps": FEW_STEPS, "checkpoint_every": 1}
        return runs.write_rl(base, folder, training=training, **STATELESS[name])
    if name in STATEFUL:
        training = {"steps": MANY_STEPS, "checkpoint_every": 1, "schedule": "cosine", "warmup_steps": 2}
        return runs.write_rl(base, folder, training=training, **STATEFUL[name])
    method, _, kind = name.partition("-")
    changes: dict[str, Any] = {"training": TRAINING}
    if method != "pretrain":
        changes["model"] = {"path": str(base)} | (LORA if kind == "lora" else {})
    else:
        changes["training"] = TRAINING | {"matrix_learning_rate": 0.01}
    if method == "rl":
        changes["rl"] = {"prompts_per_step": 6, "group_size": 8}
        changes["rollout"] = {"max_new_tokens": 8, "chunk_size": 16}
        changes["algorithm"] = {"name": "grpo"}
        if kind == "lora":
            changes["rl"]["kl"] = {"coef": 0.05}
        changes["scratchpad"] = "empty"
    (folder / "recipe.yaml").write_text(dump(tiny.recipe(method, **changes)))
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a recipe that nobody disturbed."""

    @cache
    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        assert worker.finish(worker.start(write_recipe(name, base, folder), folder / "run")) == 0
        return folder / "run"

    return run


Undisturbed = Callable[[str], Path]


def kill_now_and_then(recipe: Path, run: Path, *, steps: int, kills: int, rng: Random) -> list[int]:
    """Kill the run at `kills` moments drawn all over it, then let it end; the steps that it was taken up from."""
    taken_up_from = []
    for step in [*sorted(rng.sample(range(1, steps), kills)), steps]:
        child = worker.start(recipe, run)
        worker.signal_at(child, run, step, after=rng.uniform(0, 0.02) if step < steps else 0.0)
        if worker.finish(child) == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        taken_up_from.append(max(steps_in(run / "checkpoints"), default=0))
    assert worker.finish(worker.start(recipe, run)) == 0
    return taken_up_from


@pytest.mark.parametrize("name", METHODS)
def test_killed_again_and_again_a_run_ends_in_the_same_bits(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, name: str
) -> None:
    recipe, run = write_recipe(name, base, tmp_path), tmp_path / "run"
    taken_up_from = kill_now_and_then(recipe, run, steps=STEPS, kills=KILLS, rng=Random(f"kills/{name}"))

    assert len(taken_up_from) >= 3
    assert any(0 < step < STEPS for step in taken_up_from)
    assert_same_run(run, undisturbed(name), steps=STEPS)
    assert [f.name for f in (run / "checkpoints").iterdir()] == [str(STEPS)]


def test_every_algorithm_is_killed() -> None:
    assert {v["algorithm"]["name"] for v in (STATELESS | STATEFUL).values()} == set(ALGORITHMS)
    assert len(ALGORITHMS) > 8


@pytest.mark.parametrize("name", STATELESS)
def test_whatever_the_algorithm_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, name: str
) -> None:
    recipe, run = write_recipe(name, base, tmp_path), tmp_path / "run"
    taken_up_from = kill_now_and_then(recipe, run, steps=FEW_STEPS, kills=FEW_KILLS, rng=Random(f"kills/{name}"))

    assert len(taken_up_from) >= 2
    assert any(0 < step < FEW_STEPS for step in taken_up_from)
    assert_same_run(run, undisturbed(name), steps=FEW_STEPS)
    assert sum(record["grad_norm"] > 0 for record in metrics(run)) > FEW_STEPS / 2


@pytest.mark.parametrize("name", STATEFUL)
def test_killed_twenty_times_and_in_the_middle_of_a_checkpoint_a_run_ends_in_the_same_bits(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, name: str
) -> None:
    """Each kill has its place in the run: one that came too late is made up for by a next one that comes early."""
    recipe, run = write_recipe(name, base, tmp_path), tmp_path / "run"
    rng = Random(f"kills/{name}")
    kills, torn, taken_up_from = 0, 0, []
    while kills < MANY_KILLS or torn < WRITES:
        step = 1 + kills * (MANY_STEPS - 4) // MANY_KILLS
        child = worker.start(recipe, run)
        if worker.steps_logged(run) >= step:
            time.sleep(rng.uniform(0, 0.3))
            worker.signal_at(child, run, 0)
        elif kills % 2:
            worker.kill_in_a_write(child, run, step)
        else:
            worker.signal_at(child, run, step, after=rng.uniform(0, 0.03))
        worker.finish(child)
        assert child.exitcode == -signal.SIGKILL, f"ended after {kills} kills"
        kills += 1
        torn += any(worker.writing(run))
        taken_up_from.append(max(steps_in(run / "checkpoints"), default=0))
    assert worker.finish(worker.start(recipe, run)) == 0

    assert len(set(taken_up_from)) > 5
    assert taken_up_from == sorted(taken_up_from)
    assert_same_run(run, undisturbed(name), steps=MANY_STEPS)


def test_all_that_a_run_can_carry_moved_in_those_that_were_killed(undisturbed: Undisturbed) -> None:
    model, head, dapo = (undisturbed(name) for name in STATEFUL)
    coefs = [record["kl_coef"] for record in metrics(model)]
    assert len(set(coefs)) > MANY_STEPS / 2
    assert [("grad_norm" in r, "critic_grad_norm" in r) for r in metrics(model)] == [(False, True)] * 4 + [
        (True, True)
    ] * (MANY_STEPS - 4)
    leaves = saved(model / "checkpoints" / str(MANY_STEPS))
    assert any("/parts/critic/optimizer/optimizers/0/state/" in leaf for leaf in leaves)
    assert any("/parts/critic/weights/trunk." in leaf for leaf in leaves)

    leaves = saved(head / "checkpoints" / str(MANY_STEPS))
    moved = [leaf for leaf in leaves if leaf.startswith("/parts/kl/weights/")]
    assert len(moved) > 5
    assert all(leaf.replace("/parts/kl/weights/", "/weights/") in leaves for leaf in moved)
    assert not all(leaves[leaf].equal(leaves[leaf.replace("/parts/kl", "")]) for leaf in moved)
    assert len({record["kl_coef"] for record in metrics(head)}) > MANY_STEPS / 2

    frontiers = [record["frontier"] for record in metrics(dapo)]
    assert frontiers[0] == 0
    assert frontiers == sorted(frontiers)
    assert len(set(frontiers)) >= 2
    assert frontiers.index(1) > 2
    assert len({record["sampling_rounds"] for record in metrics(dapo)}) >= 2
    assert saved(dapo / "checkpoints" / str(MANY_STEPS))["/parts/ladder/frontier"] >= 1


@pytest.mark.parametrize("name", METHODS)
def test_the_run_that_is_killed_learns_something(undisturbed: Undisturbed, name: str) -> None:
    records = metrics(undisturbed(name))
    assert len({record["loss"] for record in records}) > STEPS / 2
    if name.startswith("rl"):
        assert sum(record["live_groups"] > 0 for record in records) > STEPS / 2


@pytest.mark.parametrize("name", ["supervised", "rl-lora"])
def test_asked_to_stop_a_run_leaves_a_checkpoint_and_goes_on_from_it(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, name: str
) -> None:
    recipe, run = write_recipe(name, base, tmp_path), tmp_path / "run"
    child = worker.start(recipe, run)
    worker.signal_at(child, run, 3, number=signal.SIGTERM)
    assert worker.finish(child) == 130
    assert steps_in(run / "checkpoints") == [len(metrics(run))]
    assert 3 <= len(metrics(run)) < STEPS
    assert not (run / "done.json").exists()
    assert worker.finish(worker.start(recipe, run)) == 0
    assert_same_run(run, undisturbed(name), steps=STEPS)


def test_a_finished_run_is_not_run_again(base: Path, undisturbed: Undisturbed) -> None:
    run = undisturbed("pretrain")
    before = {f: f.stat().st_mtime_ns for f in run.rglob("*")}
    assert worker.finish(worker.start(run.parent / "recipe.yaml", run)) == 0
    assert {f: f.stat().st_mtime_ns for f in run.rglob("*")} == before


def test_the_command_itself_survives_a_kill_and_ctrl_c(tmp_path: Path, base: Path, undisturbed: Undisturbed) -> None:
    recipe, folder = write_recipe("pretrain", base, tmp_path), tmp_path / "run"
    command = [sys.executable, "-m", "latentpad", "train", str(recipe), "--out", str(folder)]

    def run(step: int, number: int) -> tuple[int, str]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and worker.steps_logged(folder) < step:
            time.sleep(0.0005)
        process.send_signal(number)
        told = process.communicate(timeout=worker.PATIENCE)[1]
        return process.returncode, told

    assert run(3, signal.SIGKILL)[0] == -signal.SIGKILL
    assert 0 < max(steps_in(folder / "checkpoints")) < STEPS
    code, told = run(5, signal.SIGINT)
    step = len(metrics(folder))
    assert code == 130
    assert steps_in(folder / "checkpoints") == [step]
    assert told.splitlines()[-1] == f"latentpad: stopped at step {step} of {STEPS}; checkpoint in {folder}/checkpoints"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"run: {folder}" in done.stdout
    assert_same_run(folder, undisturbed("pretrain"), steps=STEPS)

"""Killed at any moment and started again, a run ends in the very bits of a run that nobody disturbed."""

from __future__ import annotations

import json
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
import torch

from latentpad.recipe.load import dump
from latentpad.training.checkpoint import STATE, steps_in
from tests import tiny
from tests.training import worker

STEPS = 12
KILLS = 3
TRAINING = {"steps": STEPS, "checkpoint_every": 2, "learning_rate": 0.003, "schedule": "cosine", "warmup_steps": 2}
METHODS = ["pretrain", "supervised", "supervised-lora", "rl-lora", "rl-full"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that answers some one-digit sums, so that its groups carry a signal."""
    folder = tmp_path_factory.mktemp("base")
    recipe = tiny.recipe(
        "pretrain",
        pretrain={"documents_per_step": 32, "scratchpad_share": 0.0},
        training={"steps": 80, "learning_rate": 0.02, "checkpoint_every": 80, "micro_batch_tokens": 4096},
    )
    (folder / "recipe.yaml").write_text(dump(recipe))
    assert worker.finish(worker.start(folder / "recipe.yaml", folder / "run")) == 0
    return folder / "run" / "checkpoints" / "80"


def write_recipe(name: str, base: Path, folder: Path) -> Path:
    method, _, kind = name.partition("-")
    changes: dict[str, Any] = {"training": TRAINING}
    if method != "pretrain":
        changes["model"] = {"path": str(base)} | ({"lora": tiny.LORA.model_dump()} if kind == "lora" else {})
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


def metrics(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "timing"} for record in records]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a nested state by its path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{name}/{i}").items()}
    return {name: value}


def assert_equal(found: Any, expected: Any, what: str) -> None:
    assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected, what


def assert_same_run(found: Path, expected: Path) -> None:
    """To the bit: metrics, weights, optimizer, evaluation; only times may differ."""
    assert metrics(found) == metrics(expected)
    assert [record["step"] for record in metrics(found)] == list(range(1, STEPS + 1))
    ours, theirs = (run / "checkpoints" / str(STEPS) for run in (found, expected))
    [weights] = [f.name for f in theirs.glob("*.safetensors")]
    assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    states = {f.name for f in theirs.iterdir()} & {STATE, "optimizer.pt", "scheduler.pt"}
    assert states in ({STATE}, {"optimizer.pt", "scheduler.pt"})
    for name in states:
        state, other = (flat(torch.load(folder / name, weights_only=True)) for folder in (ours, theirs))
        assert state.keys() == other.keys()
        for leaf in state.keys() - {"/counters/seconds"}:
            assert_equal(state[leaf], other[leaf], f"{name}{leaf}")
    files = sorted(f.name for f in (expected / "eval").iterdir())
    assert files == [f"{STEPS}.json", f"{STEPS}.jsonl"]
    for name in files:
        assert (found / "eval" / name).read_bytes() == (expected / "eval" / name).read_bytes()


Undisturbed = Callable[[str], Path]


@pytest.mark.parametrize("name", METHODS)
def test_killed_again_and_again_a_run_ends_in_the_same_bits(
    tmp_path: Path, base: Path, undisturbed: Undisturbed, name: str
) -> None:
    recipe, run = write_recipe(name, base, tmp_path), tmp_path / "run"
    rng = Random(f"kills/{name}")
    taken_up_from = []
    for step in [*sorted(rng.sample(range(1, STEPS), KILLS)), STEPS]:
        child = worker.start(recipe, run)
        worker.signal_at(child, run, step, after=rng.uniform(0, 0.02) if step < STEPS else 0.0)
        if worker.finish(child) == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        taken_up_from.append(max(steps_in(run / "checkpoints"), default=0))
    assert worker.finish(worker.start(recipe, run)) == 0

    assert len(taken_up_from) >= 3
    assert any(0 < step < STEPS for step in taken_up_from)
    assert_same_run(run, undisturbed(name))
    assert [f.name for f in (run / "checkpoints").iterdir()] == [str(STEPS)]


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
    assert_same_run(run, undisturbed(name))


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
    assert_same_run(folder, undisturbed("pretrain"))

"""The documented commands, started by the real launchers: two processes each, on a published recipe made small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentpad.training.checkpoint import steps_in
from tests.distributed import ranks
from tests.training import runs

pytest.importorskip("deepspeed")

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = "rl.prompts_per_step=4 rl.group_size=4 rollout.chunk_size=8 evaluation.problems=4 training.checkpoint_every=2"
COMMANDS = {
    "accelerate": "accelerate launch --config_file recipes/launch/cpu.yaml --main_process_port {port}"
    " -m latentpad train",
    "accelerate, ZeRO-2": "accelerate launch --config_file recipes/launch/cpu_zero2.yaml --main_process_port {port}"
    " -m latentpad train",
    "torchrun, ZeRO-3": "torchrun --nproc_per_node 2 --master_port {port} -m latentpad train"
    " --deepspeed recipes/launch/zero3.json",
    "deepspeed, ZeRO-2": "deepspeed --num_accelerators 2 --master_port {port} --module latentpad train"
    " --deepspeed recipes/launch/zero2.json",
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def started(command: str, base: Path, run: Path, steps: int, recipe: str = "grpo") -> subprocess.Popen[str]:
    words = command.format(port=ranks.free_port()).split()
    overrides = [*(SMALL.split() if recipe == "grpo" else SMALL.split()[3:]), f"training.steps={steps}"]
    arguments = [f"recipes/single/{recipe}.yaml", "--out", str(run), f"model.path={base}", *overrides]
    return subprocess.Popen(
        [str(BIN / words[0]), *words[1:], *arguments],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def in_effect(run: Path) -> list[str]:
    lines: list[str] = json.loads((run / "environment.json").read_text())["in_effect"]
    return lines


@pytest.mark.parametrize("name", COMMANDS)
def test_the_recipe_runs_under_the_launcher(name: str, base: Path, tmp_path: Path) -> None:
    process = started(COMMANDS[name], base, tmp_path / "run", steps=3)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said[-3000:]
    launcher, _, zero = name.partition(", ")
    first, *others = in_effect(tmp_path / "run")
    assert first.startswith(f"2 processes by {launcher}, exchanging by gloo; {zero.lower() or 'replicated'} on CPU")
    assert any((zero or "weights, gradients and optimizer state whole") in line for line in others)
    assert first in said
    assert len(runs.metrics(tmp_path / "run")) == 3


def test_supervised_under_accelerate_is_what_it_says(base: Path, tmp_path: Path) -> None:
    process = started(COMMANDS["accelerate, ZeRO-2"], base, tmp_path / "run", steps=2, recipe="nye")
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said[-3000:]
    assert "trainer: ZeRO-2 on 2 processes" in in_effect(tmp_path / "run")


def test_a_launcher_that_starts_less_than_it_was_asked_for_is_refused(base: Path, tmp_path: Path) -> None:
    command = "accelerate launch --cpu --num_processes 2 -m latentpad train"
    process = started(command, base, tmp_path / "run", steps=2)
    said, _ = process.communicate(timeout=180)
    assert process.returncode != 0
    assert "latentpad: accelerate was asked for 2 processes and started 1" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "number"),
    [("torchrun, ZeRO-3", signal.SIGTERM), ("accelerate", signal.SIGINT), ("deepspeed, ZeRO-2", signal.SIGTERM)],
)
def test_a_launcher_that_is_told_to_stop_leaves_a_checkpoint(
    name: str, number: signal.Signals, base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = started(COMMANDS[name], base, run, steps=2000)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_bytes().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    steps = len(runs.metrics(run))
    assert max(steps_in(run / "checkpoints")) == steps, said[-2000:]
    assert f"stopped at step {steps} of 2000; checkpoint in" in said

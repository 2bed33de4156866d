"""`latentpad train` in a child of a warm process, so that killing it many times costs little."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

HEAVY = ["peft", "trl", "datasets", "tests.training.worker", "tests.tiny", "latentpad.experiments.run"]
PATIENCE = 120.0


def train(recipe: Path, folder: Path) -> None:
    """What the child does: the command line, exit code and all."""
    from latentpad.cli import main

    sys.exit(main(["train", str(recipe), "--out", str(folder)]))


def start(recipe: Path, folder: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    child = context.Process(target=train, args=(recipe, folder))
    child.start()
    return child


def finish(child: BaseProcess) -> int | None:
    child.join(PATIENCE)
    return child.exitcode


def steps_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def signal_at(child: BaseProcess, folder: Path, step: int, *, after: float = 0.0, number: int = signal.SIGKILL) -> None:
    """Wait until this step is logged (or the child is done), then a moment more, then send the signal."""
    deadline = time.monotonic() + PATIENCE
    while child.is_alive() and steps_logged(folder) < step:
        assert time.monotonic() < deadline, f"step {step} was never logged"
        time.sleep(0.0005)
    time.sleep(after)
    if child.is_alive() and child.pid is not None:
        os.kill(child.pid, number)

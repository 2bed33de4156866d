"""`latentpad train` in a child of a warm process, so that killing it many times costs little."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

HEAVY = ["peft", "trl", "datasets", "deepspeed", "tests.training.worker", "tests.tiny", "latentpad.experiments.run"]
PATIENCE = 120.0


def train(recipe: Path, folder: Path, prepare: Callable[[], None] | None = None) -> None:
    """What the child does: the command line, exit code and all; `prepare` runs before it."""
    from latentpad.cli import main

    if prepare is not None:
        prepare()
    sys.exit(main(["train", str(recipe), "--out", str(folder)]))


def start(recipe: Path, folder: Path, prepare: Callable[[], None] | None = None) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    child = context.Process(target=train, args=(recipe, folder, prepare))
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


def writing(folder: Path) -> list[Path]:
    """The checkpoint that is being written, if one is (or was, when the process died)."""
    return [aside for aside in (folder / "checkpoints").glob(".writing-*") if aside.name.split("-")[-1].isdigit()]


def kill_in_a_write(child: BaseProcess, folder: Path, step: int) -> None:
    """Wait until a checkpoint from this step or later is being written (or the child is done), then kill it."""
    deadline = time.monotonic() + PATIENCE
    while child.is_alive() and not any(int(aside.name.split("-")[-1]) >= step for aside in writing(folder)):
        assert time.monotonic() < deadline, f"no checkpoint from step {step} on was ever written"
        time.sleep(0.0005)
    if child.is_alive() and child.pid is not None:
        os.kill(child.pid, signal.SIGKILL)


class DieAt:
    """Kills this process (SIGKILL) at the nth call of a function that changes the disk."""

    def __init__(self, countdown: int) -> None:
        self.countdown = countdown

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.countdown -= 1
            if self.countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted


def dies_at(countdown: int, work: Callable[[], None]) -> bool:
    """Do it in a forked child that dies at the nth change of the disk; whether it did die before the end."""
    child = os.fork()
    if child == 0:
        die = DieAt(countdown)
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
            setattr(os, name, die.wrap(getattr(os, name)))
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0

"""Trouble for the workers of a run, from outside its processes; only a lost object must be arranged inside."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from latentpad.rollout.ray_crew import RayCrew
from latentpad.rollout.weights import Header, Weights
from tests.training.worker import steps_logged

PATIENCE = 180.0


def events(run: Path) -> list[dict[str, Any]]:
    """What the run noted of its workers so far."""
    file = run / "rollouts.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def workers(run: Path) -> dict[int, int]:
    """The process of every worker that lives, by its number."""
    living: dict[int, int] = {}
    for event in events(run):
        if event["event"] == "ready":
            living[event["worker"]] = event["pid"]
        elif event["event"] == "lost":
            living.pop(event["worker"], None)
    return {worker: pid for worker, pid in living.items() if Path(f"/proc/{pid}").is_dir()}


def count(run: Path, *kinds: str) -> int:
    return sum(event["event"] in kinds for event in events(run))


def wait_until(condition: Callable[[], bool], child: BaseProcess, what: str) -> bool:
    """Whether it came true before the run ended."""
    deadline = time.monotonic() + PATIENCE
    while child.is_alive() and not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.002)
    return condition()


def at_a_random_moment(child: BaseProcess, run: Path, rng: Random, size: int) -> int | None:
    """Wait until all workers live and a few more steps are done, then a moment more; a worker's process, or None."""
    wait_until(lambda: len(workers(run)) >= size, child, f"{size} workers")
    target = steps_logged(run) + rng.randrange(1, 4)
    wait_until(lambda: steps_logged(run) >= target, child, f"step {target}")
    time.sleep(rng.uniform(0, 0.3))
    living = list(workers(run).values())
    return rng.choice(living) if living and child.is_alive() else None


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """It does nothing any more, and does not die of it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)


def slow_down(pid: int, seconds: float, *, by: int = 10) -> None:
    """Let it run for one part of the time in `by`."""
    until = time.monotonic() + seconds
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.01 * (by - 1))
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)


def lose_objects_on_signal() -> None:
    """In the driver, before it starts: at SIGUSR1 the next weights that are put into the object store are lost.

    Ray loses what a process has put there when that process dies: so another one puts them, and is killed.
    """
    asked = threading.Event()
    refer = RayCrew._reference

    def lost(self: RayCrew, weights: Weights) -> tuple[Header, Any]:
        if not asked.is_set():
            return refer(self, weights)
        import ray

        asked.clear()
        owner = ray.remote(num_cpus=0)(Owner).remote()
        [reference] = ray.get(owner.put.remote(weights.buffer))
        ray.kill(owner)
        self._sent[weights.version, weights.hash] = (weights.header, reference)
        return weights.header, reference

    RayCrew._reference = lost  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())


class Owner:
    def put(self, buffer: Any) -> list[Any]:
        import ray

        return [ray.put(buffer)]

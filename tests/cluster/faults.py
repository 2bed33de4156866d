"""Trouble for the workers of a run, from outside its processes; only a lost object must be arranged inside.

`python -m tests.cluster.faults train RECIPE --out FOLDER` is `latentpad` with workers that take their time, so that
trouble finds them at work, and with objects that are lost at SIGUSR1.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from latentpad.rollout.ray_crew import RayCrew
from latentpad.rollout.weights import Header, Weights
from latentpad.rollout.worker import Reply, RolloutWorker
from tests.training.worker import steps_logged

PATIENCE = 180.0
# What a chunk takes at least, in seconds.
UNHURRIED = 0.2


class Unhurried(RolloutWorker):
    """A worker whose chunks are long enough to be hit."""

    def sample(self, *args: Any) -> Reply:
        time.sleep(UNHURRIED)
        return super().sample(*args)


class Owner:
    """Puts an object into the store; when it dies, Ray loses the object."""

    def put(self, buffer: Any) -> list[Any]:
        import ray

        return [ray.put(buffer)]


def lose_objects_on_signal() -> None:
    """At SIGUSR1 the next weights that are put into the object store are lost before anybody has them."""
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
        store, until = ray._private.worker.global_worker.core_worker, time.monotonic() + 20
        while store.object_exists(reference) and time.monotonic() < until:
            time.sleep(0.01)
        self._sent[weights.version, weights.hash] = (weights.header, reference)
        return weights.header, reference

    RayCrew._reference = lost  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())


def main() -> int:
    from latentpad.cli import main as latentpad

    start = RayCrew.__init__

    def unhurried(self: RayCrew, cluster: Any, recipe: Any, trainer: Any, worker_class: Any = None) -> None:
        start(self, cluster, recipe, trainer, Unhurried)

    RayCrew.__init__ = unhurried  # type: ignore[assignment, method-assign]
    lose_objects_on_signal()
    return latentpad(sys.argv[1:])


def command(recipe: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "tests.cluster.faults", "train", str(recipe), "--out", str(run)]


def events(run: Path) -> list[dict[str, Any]]:
    """What the run noted of its workers so far, over all its starts."""
    file = run / "rollouts.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def count(run: Path, *kinds: str) -> int:
    return sum(event["event"] in kinds for event in events(run))


def workers(run: Path) -> list[int]:
    """The processes of all workers that live and are at work."""
    living: dict[int, int] = {}  # numbers begin anew with each start of the driver
    for event in events(run):
        if event["event"] == "ready":
            living[event["worker"]] = event["pid"]
        elif event["event"] == "lost":
            living.pop(event["worker"], None)
    return [pid for pid in living.values() if alive(pid)]


def alive(pid: int) -> bool:
    """Whether there is such a process, it is no corpse, and it was not stopped."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZXT"
    return False


def wait_until(condition: Callable[[], bool], driver: subprocess.Popen[str], what: str) -> bool:
    """Whether it came true before the run ended."""
    deadline = time.monotonic() + PATIENCE
    while driver.poll() is None and not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.005)
    return condition()


def random_moment(driver: subprocess.Popen[str], run: Path, rng: Random, size: int) -> int | None:
    """Wait until all workers live and a few more steps are done, then a moment more; a worker's process, or None."""
    if not wait_until(lambda: len(workers(run)) >= size, driver, f"{size} workers"):
        return None
    target = steps_logged(run) + rng.randrange(1, 4)
    wait_until(lambda: steps_logged(run) >= target, driver, f"step {target}")
    time.sleep(rng.uniform(0, 0.5))
    return rng.choice(workers(run)) if driver.poll() is None else None


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


if __name__ == "__main__":
    sys.exit(main())

"""Whatever happens to workers, nodes, driver or head, a run ends in the very bits of an undisturbed one.

Each kind of trouble comes twice, at random moments, or as often as LATENTPAD_FAULT_TIMES says: the table in
docker/README.md is of five. With LATENTPAD_FAULTS=FILE what each took is written there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("ray")

from tests.cluster import faults
from tests.cluster.nodes import ROOT, two_nodes
from tests.training import runs, worker

TIMES = int(os.environ.get("LATENTPAD_FAULT_TIMES", "2"))
STEPS = 20 + 28 * TIMES
SAMPLING = {"max_new_tokens": 8, "chunk_size": 8}
TRAINING = {"steps": STEPS, "checkpoint_every": 5, "learning_rate": 0.001}
RAY = {"workers": 2, "silence_seconds": 3.0, "restarts": 1000, "start_seconds": 60.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process, without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = runs.write_rl(base, folder, rollout=SAMPLING, training=TRAINING, model=lora(base))
    assert worker.finish(worker.start(recipe, folder / "run")) == 0
    return folder / "run"


def lora(base: Path) -> dict[str, Any]:
    return {"path": str(base), "lora": {"rank": 2, "alpha": 4}}


def disturbed(base: Path, folder: Path, **ray: Any) -> tuple[Path, Path]:
    rollout = {**SAMPLING, "engine": "ray", "ray": RAY | ray}
    return runs.write_rl(base, folder, rollout=rollout, training=TRAINING, model=lora(base)), folder / "run"


@contextmanager
def driver(recipe: Path, run: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = (run.parent / "log.txt").open("a")
    started = subprocess.Popen(faults.command(recipe, run), stderr=log, stdout=log, text=True, env=environment)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        log.close()


def note(kind: str, took: list[float], outcome: str) -> None:
    if file := os.environ.get("LATENTPAD_FAULTS"):
        with Path(file).open("a") as stream:
            rounded = [round(seconds, 1) for seconds in sorted(took)]
            stream.write(json.dumps({"fault": kind, "times": len(took), "seconds": rounded, "outcome": outcome}) + "\n")


def next_step(run: Path, started: subprocess.Popen[str]) -> float:
    """Seconds until one more step is done."""
    start, target = time.monotonic(), worker.steps_logged(run) + 1
    faults.wait_until(lambda: worker.steps_logged(run) >= target, started, f"step {target}")
    return time.monotonic() - start


def test_workers_that_die_stop_or_are_slow_and_objects_that_are_lost(
    base: Path, undisturbed: Path, tmp_path: Path
) -> None:
    recipe, run = disturbed(base, tmp_path)
    rng, took = Random(7), dict[str, list[float]]()
    planned = ["kill", "stop", "slow", "object"] * TIMES
    rng.shuffle(planned)
    with driver(recipe, run) as started:
        for kind in planned:
            pid = faults.random_moment(started, run, rng, 1)
            assert pid is not None, f"the run ended before its trouble: {(tmp_path / 'log.txt').read_text()[-2000:]}"
            if kind == "slow":
                faults.slow_down(pid, 3.0)
            elif kind == "object":
                before = faults.count(run, "resend")
                started.send_signal(signal.SIGUSR1)
                faults.wait_until(lambda n=before: faults.count(run, "resend") > n, started, "a lost object")  # type: ignore[misc]
            else:
                {"kill": faults.kill, "stop": faults.stop}[kind](pid)
            took.setdefault(kind, []).append(next_step(run, started))
        assert started.wait(300) == 0
    runs.assert_same_run(run, undisturbed, steps=STEPS)
    lost = [event["why"] for event in faults.events(run) if event["event"] == "lost"]
    assert sum("no sign of life" in why for why in lost) >= TIMES
    assert len(lost) >= 2 * TIMES
    assert faults.count(run, "resend") >= TIMES
    assert faults.count(run, "doubled") >= 1
    for kind, seconds in took.items():
        note(kind, seconds, "same bits")


def test_a_driver_that_is_killed_and_started_again(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    recipe, run = disturbed(base, tmp_path)
    rng, took = Random(11), []
    for _ in range(TIMES):
        with driver(recipe, run) as started:
            assert faults.random_moment(started, run, rng, 2) is not None
            pids = faults.workers(run)
            started.kill()
            start = time.monotonic()
            while any(faults.alive(pid) for pid in pids):
                assert time.monotonic() - start < 60, "workers outlive their driver"
                time.sleep(0.01)
            took.append(time.monotonic() - start)
    with driver(recipe, run) as started:
        assert started.wait(300) == 0
    runs.assert_same_run(run, undisturbed, steps=STEPS)
    note("driver", took, "resumed: same bits (seconds: until its workers are gone)")


def test_a_node_that_dies_and_comes_back(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    with two_nodes(tmp_path / "nodes", cpus=(1, 1), **QUICK) as nodes:
        recipe, run = disturbed(base, tmp_path, address=nodes.address)
        rng, took = Random(13), []
        started = nodes.popen(faults.command(recipe, run), OMP_NUM_THREADS="1")
        for _ in range(TIMES):
            assert faults.random_moment(started, run, rng, 2) is not None
            lost, whole = faults.count(run, "lost"), faults.count(run, "recovered")
            nodes.kill_second()
            start = time.monotonic()
            faults.wait_until(lambda n=lost: faults.count(run, "lost") > n, started, "the loss")  # type: ignore[misc]
            next_step(run, started)
            took.append(time.monotonic() - start)
            nodes.start_second()
            faults.wait_until(lambda n=whole: faults.count(run, "recovered") > n, started, "the recovery")  # type: ignore[misc]
        assert started.wait(300) == 0
    runs.assert_same_run(run, undisturbed, steps=STEPS)
    note("node", took, "same bits (seconds: until the next step on the node that is left)")


def test_a_head_that_is_lost_leaves_a_checkpoint_to_go_on_from(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    rng, took = Random(17), []
    for number in range(TIMES + 1):
        with two_nodes(tmp_path / f"nodes{number}", cpus=(1, 1), **QUICK) as nodes:
            recipe, run = disturbed(base, tmp_path, address=nodes.address)
            started = nodes.popen(faults.command(recipe, run), OMP_NUM_THREADS="1")
            if number < TIMES:
                assert faults.random_moment(started, run, rng, 2) is not None
                nodes.kill_head()
                start = time.monotonic()
                out, err = started.communicate(timeout=120)
                took.append(time.monotonic() - start)
                assert started.returncode == 3, (out, err)
                assert "the same command goes on from the checkpoint of step" in out + err
                step = worker.steps_logged(run)
                assert (run / "checkpoints" / str(step) / "manifest.json").is_file()
            else:
                assert started.wait(300) == 0
    runs.assert_same_run(run, undisturbed, steps=STEPS)
    note("head", took, "clean stop with a checkpoint, resumed: same bits (seconds: until the stop)")


# Of the nodes' health checks, in milliseconds: a dead node is known within seconds.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}

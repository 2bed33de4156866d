"""`latentpad ablate --at-once N`: which run may start; the same results to the bit; what is lost, fails, is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentpad.cli import main
from latentpad.experiments.one_run import Job, Runner, _last_words
from latentpad.experiments.schedule import Schedule, State
from latentpad.training.run_folder import locked
from tests import tiny
from tests.experiments.command import PATIENCE, ROOT, Command, parent, wait_until_gone
from tests.training.runs import assert_same_run
from tests.training.worker import steps_logged

STEPS = {"base": 200, "left": 4, "right": 8}
RL = {"prompts_per_step": 4, "group_size": 4}
SECTIONS: dict[str, dict[str, Any]] = {
    "base": {
        "method": "pretrain",
        "model": {
            "scratch": {"hidden_size": 16, "layers": 2, "heads": 2, "intermediate_size": 32, "max_positions": 128}
        },
        "pretrain": {"documents_per_step": 8, "scratchpad_share": 0.0},
    },
    "left": {"from": "base", "method": "rl", "rl": RL | {"signal": "random"}, "algorithm": {"name": "grpo"}},
    "right": {"from": "base", "method": "rl", "rl": RL, "algorithm": {"name": "grpo"}},
}


def write_plan(file: Path, seeds: list[int], **arms: dict[str, Any]) -> Path:
    for name, arm in arms.items():
        steps = STEPS.get(name, 4)
        training = {"steps": steps, "learning_rate": 0.01, "micro_batch_tokens": 256, "checkpoint_every": steps // 4}
        arm["training"] = training | arm.get("training", {})
    shared = {
        "task": {"name": "addition", "digits": [1]},
        "format": "compact",
        "scratchpad": "empty",
        "rollout": {"max_new_tokens": 8, "chunk_size": 16},
        "evaluation": {"problems": 4, "max_new_tokens": 8},
    }
    file.write_text(
        yaml.safe_dump({"experiment": "two", "seeds": seeds, "shared": shared, "arms": arms}, sort_keys=False)
    )
    return file


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plan(tmp_path_factory.mktemp("plan") / "two.yaml", [0, 1], **SECTIONS)


@pytest.fixture(scope="module")
def one_by_one(plan: Path) -> Path:
    """The experiment as it always was: in this process."""
    out = plan.parent / "one-by-one"
    assert main(["ablate", str(plan), "--out", str(out)]) == 0
    return out


def assert_same(found: Path, expected: Path, seeds: list[int]) -> None:
    for name, steps in STEPS.items():
        for seed in seeds:
            ours, theirs = (out / name / f"seed-{seed}" for out in (found, expected))
            assert_same_run(ours, theirs, steps=steps)
            done, wanted = (json.loads((folder / "done.json").read_text()) for folder in (ours, theirs))
            for counters in (done["counters"], wanted["counters"]):
                assert counters.pop("seconds") >= 0
            assert done == wanted


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands, and ends those that a test that failed has left."""
    pytest.importorskip("ray")
    started: list[Command] = []

    def begin(plan: Path, out: Path) -> Command:
        started.append(Command(tmp_path / "home", plan, out))
        return started[-1]

    yield begin
    for command in started:
        command.end()


def test_a_run_starts_after_the_one_that_it_starts_from_and_no_more_than_so_many_at_once() -> None:
    schedule = Schedule([None, 0, 0, None, 3, 3], at_once=2)
    assert schedule.startable() == [0, 3]
    schedule.mark(0, State.RUNNING)
    schedule.mark(3, State.RUNNING)
    assert schedule.startable() == schedule.waiting() == []
    schedule.mark(3, State.DONE)
    assert schedule.waiting() == [4, 5]
    assert schedule.startable() == [4]
    schedule.mark(4, State.RUNNING)
    schedule.mark(0, State.DONE)
    assert schedule.startable() == [1]
    for run in (4, 1, 2, 5):
        assert schedule.open
        schedule.mark(run, State.DONE)
    assert not schedule.open


def test_a_failed_run_takes_with_it_those_that_start_from_it_and_no_others() -> None:
    schedule = Schedule([None, 0, 1, 0, None], at_once=8)
    schedule.mark(0, State.DONE)
    schedule.mark(1, State.FAILED)
    assert schedule.states == [State.DONE, State.FAILED, State.SKIPPED, State.WAITING, State.WAITING]
    assert schedule.startable() == [3, 4]
    schedule.mark(4, State.FAILED)
    schedule.mark(3, State.DONE)
    assert not schedule.open


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cpus", "2"], "--cpus is for runs side by side: give --at-once N too"),
        (["--gpus", "0"], "--gpus is for runs side by side: give --at-once N too"),
        (["--ray", "auto"], "--ray is for runs side by side: give --at-once N too"),
        (["--at-once", "0"], "--at-once 0: expected 1 or more"),
        (["--at-once", "2", "--cpus", "-1"], "--cpus -1: expected 1 or more"),
        (["--at-once", "2", "--gpus", "1.5"], "--gpus 1.5: expected a whole number, or a share of one such as 0.5"),
        (["--at-once", "2", "--gpus", "nan"], "--gpus nan: expected a whole number, or a share of one such as 0.5"),
    ],
)
def test_wrong_shares_are_one_line(capsys: pytest.CaptureFixture[str], options: list[str], line: str) -> None:
    assert main(["ablate", "nowhere.yaml", *options]) == 2
    assert capsys.readouterr().err == f"latentpad: {line}\n"


def test_a_node_that_sees_other_files_is_named(tmp_path: Path) -> None:
    job = Job({}, "", str(tmp_path / "run"), str(tmp_path / ".seen"), "/", "1", True, None, False)
    ended = Runner().run(job)
    assert ended.code == 3
    assert ended.line.startswith(f"{tmp_path}: node ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "log", "line"),
    [
        (2, "earlier\nlatentpad: a.b: got 1\nWarning: late\n", "a.b: got 1"),
        (1, "Traceback\n  here\nValueError: no\n", "exit code 1: ValueError: no"),
        (-11, "half a li", "killed by SIGSEGV: half a li"),
        (-9, "", "killed by SIGKILL"),
    ],
)
def test_the_last_words_of_a_run_are_one_line(tmp_path: Path, code: int, log: str, line: str) -> None:
    (tmp_path / "log.txt").write_text(f"latentpad: of an earlier start\n{log}")
    assert _last_words(tmp_path / "log.txt", 31, code) == line


def test_a_run_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    recipe = tiny.recipe("pretrain", training={"steps": 100_000, "checkpoint_every": 50_000})
    job = Job(recipe.model_dump(exclude_none=True), "", str(tmp_path / "run"), "", "/", "1", True, None, False)
    command = [sys.executable, "-m", "latentpad.experiments.one_run"]
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=none, stderr=none, cwd=ROOT, start_new_session=True) as run:
        assert run.stdin is not None
        run.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        run.stdin.flush()
        try:
            deadline = time.monotonic() + PATIENCE
            while steps_logged(tmp_path / "run") < 5:
                assert run.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            run.stdin.close()
            assert run.wait(20) == -signal.SIGKILL
        finally:
            run.kill()


def test_side_by_side_is_the_same_to_the_bit_whatever_process_is_lost(
    plan: Path, one_by_one: Path, tmp_path: Path, start: Callable[..., Command]
) -> None:
    out = tmp_path / "out"
    command = start(plan, out)
    os.kill(command.run_of(out / "base" / "seed-0", step=60), signal.SIGKILL)
    run = command.run_of(out / "base" / "seed-1", step=60)
    os.kill(parent(run), signal.SIGKILL)  # Ray's worker
    os.kill(run, signal.SIGCONT)
    code, lines, err = command.finish()
    assert (code, err) == (0, [])
    starts = (out / "base" / "seed-1" / "log.txt").read_text().split("--- started on ")
    assert len(starts) == 3
    killed = [line for line in lines if line.startswith("[1/6] base, seed 0: lost (killed by SIGKILL: base seed 0: ")]
    assert [line.partition("; ")[2] for line in killed] == ["started again, 1 of 3 times"]
    gone = "its Ray worker or node is gone"
    assert f"[4/6] base, seed 1: lost ({gone}); started again, 1 of 3 times" in lines
    assert sum(": done in " in line for line in lines) == 6
    assert sum(": started on " in line for line in lines) == 8
    assert lines[-1] == f"report: {out / 'report' / 'index.html'}"
    assert_same(out, one_by_one, [0, 1])
    tables = [json.loads((folder / "summary.json").read_text())["comparisons"] for folder in (out, one_by_one)]
    assert tables[0] == tables[1] != []
    wait_until_gone(command)


def test_told_to_stop_or_killed_it_leaves_checkpoints_and_no_process_and_goes_on(
    one_by_one: Path, tmp_path: Path, start: Callable[..., Command]
) -> None:
    out, base = tmp_path / "out", tmp_path / "out" / "base" / "seed-0"
    plan = write_plan(tmp_path / "one.yaml", [0], **SECTIONS)
    command = start(plan, out)
    run = command.run_of(base, step=30)
    os.kill(command.pid, signal.SIGTERM)
    os.kill(run, signal.SIGCONT)
    code, lines, err = command.finish()
    assert (code, err) == (130, ["latentpad: stopped; checkpoints are kept and the same command goes on"])
    assert any(line.startswith("stopping ") for line in lines)
    wait_until_gone(command)
    stopped_at = max(int(f.name) for f in (base / "checkpoints").iterdir())
    assert stopped_at >= 30
    assert stopped_at == steps_logged(base) < STEPS["base"]

    command = start(plan, out)
    os.kill(command.run_of(base, step=stopped_at + 10), signal.SIGCONT)
    assert len(command.processes()) > 4  # Ray's own are among them
    os.kill(command.pid, signal.SIGKILL)
    assert command.finish()[0] == -signal.SIGKILL
    wait_until_gone(command)

    assert main(["ablate", str(plan), "--out", str(out)]) == 0
    assert_same(out, one_by_one, [0])


def test_an_arm_that_fails_stops_only_what_starts_from_it(
    one_by_one: Path, tmp_path: Path, start: Callable[..., Command]
) -> None:
    like = {"like": "left"}
    arms = SECTIONS | {"bad": {**like}, "worse": {**like, "from": "bad"}, "crashed": {**like}}
    plan, out = write_plan(tmp_path / "bad.yaml", [0], **arms), tmp_path / "out"
    shutil.copytree(one_by_one / "base", out / "base")
    shutil.copytree(one_by_one / "left", out / "left")
    (out / "crashed" / "seed-0" / "environment.json").mkdir(parents=True)
    with locked(out / "bad" / "seed-0"):
        code, lines, err = start(plan, out).finish()
    assert code == 2
    assert lines[0] == "[1/6] base, seed 0: done before, re-used"
    assert lines[1] == "[2/6] left, seed 0: done before, re-used"
    assert sum("right, seed 0: done in " in line for line in lines) == 1
    folders = [out / name / "seed-0" for name in ("bad", "crashed")]
    told = [line for line in lines if ": failed: " in line]
    assert told[0] == (
        f"[4/6] bad, seed 0: failed: {folders[0]}: another process trains in it: wait for it, or use another --out "
        f"(see {folders[0] / 'log.txt'})"
    )
    assert told[1].startswith("[5/6] crashed, seed 0: failed: exit code 1: IsADirectoryError: ")
    assert err[0].startswith("latentpad: 2 of 6 runs failed, 1 not run that start from them; the first: bad, seed 0: ")
    assert_same_run(out / "right" / "seed-0", one_by_one / "right" / "seed-0", steps=STEPS["right"])
    assert not (out / "worse").exists()
    arms = {arm["arm"]: arm for arm in json.loads((out / "summary.json").read_text())["arms"]}
    assert [name for name, arm in arms.items() if arm["seeds"]] == ["base", "left", "right"]
    assert arms["worse"]["status"] == "seed 0 not run: bad failed"
    assert not list(out.glob(".seen-*"))

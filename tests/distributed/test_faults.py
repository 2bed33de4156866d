"""A process that dies, hangs, fails or is told to stop takes the others with it, and says so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from latentpad.training.checkpoint import steps_in
from tests import tiny
from tests.distributed import ranks
from tests.training import runs, worker

SILENCE = 8.0
SLOW = 1.5 * SILENCE
STEPS = 400


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Path:
    """A run that nobody waits for to end."""
    training = {"steps": STEPS, "checkpoint_every": 5, "learning_rate": 0.001, "micro_batch_tokens": 128}
    return runs.write_rl(base, tmp_path, training=training, model={"lora": tiny.LORA.model_dump()})


@dataclass(frozen=True)
class Quick:
    """Silence is heard sooner than by default; what a test wants of one rank comes after."""

    of_rank: int = -1
    then: Callable[[], None] | None = None

    def __call__(self, rank: int) -> None:
        from latentpad.training.processes import watch

        watch.SILENCE = SILENCE
        if rank == self.of_rank and self.then is not None:
            self.then()


def told(run: Path) -> list[str]:
    return [ranks.log_of(run, rank).read_text() for rank in range(2)]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_frozen_process_takes_the_other_down_by_name(
    victim: int, number: signal.Signals, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    children = ranks.start(recipe, run, also=Quick())
    worker.signal_at(children[victim], run, 6, number=number)
    start = time.monotonic()
    other = children[1 - victim]
    other.join(SILENCE + 10)
    seconds = time.monotonic() - start
    children[victim].kill()
    assert other.exitcode not in (None, 0)
    assert seconds < SILENCE + 5
    assert max(steps_in(run / "checkpoints")) >= 5
    line = told(run)[1 - victim]
    holds_the_store = victim == 0  # as under DeepSpeed's launcher; torchrun's agent holds it itself
    assert f"rank {victim} (process {children[victim].pid}" in line or (holds_the_store and "rank 0, or the" in line)
    assert "the same command goes on from the checkpoint" in line
    assert "Traceback" not in line
    ranks.finish(children)


def test_what_fails_on_one_process_is_told_by_the_other(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    children = ranks.start(recipe, run, also=Quick(1, out_of_memory))
    start = time.monotonic()
    codes = ranks.finish(children)
    assert time.monotonic() - start < 60
    assert codes == [3, 1]
    assert "rank 1 failed: MemoryError: no room" in told(run)[0]


def out_of_memory() -> None:
    from latentpad.training.learner import Learner

    original = Learner.step

    def step(learner: Learner, batches: Any, step: int, kl_coef: float = 0.0) -> dict[str, float]:
        if step == 3:
            raise MemoryError("no room")
        return original(learner, batches, step, kl_coef)

    Learner.step = step  # type: ignore[method-assign]


@pytest.mark.parametrize("strategy", ["replicated", "zero-2"])
@pytest.mark.parametrize(("number", "told_to"), [(signal.SIGTERM, [0]), (signal.SIGTERM, [1]), (signal.SIGINT, [0, 1])])
def test_told_to_stop_one_or_all_leave_a_checkpoint_together(
    strategy: str, number: signal.Signals, told_to: list[int], recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if strategy != "replicated":
        pytest.importorskip("deepspeed")
    children = ranks.start(recipe, run, strategy=strategy)
    worker.signal_at(children[told_to[0]], run, 7, number=number)
    for rank in told_to[1:]:
        os.kill(children[rank].pid or 0, number)
    assert ranks.finish(children) == [130, 130]
    [step] = [int(line.split("stopped at step ")[1].split(" ")[0]) for line in told(run) if "stopped at step" in line][
        :1
    ]
    assert step == max(steps_in(run / "checkpoints")) == len(runs.metrics(run))
    assert 7 <= step < STEPS


def test_a_slow_reward_on_one_process_is_waited_for(recipe: Path, tmp_path: Path, base: Path) -> None:
    few = runs.write_rl(
        base,
        tmp_path / "few",
        training={"steps": 1, "checkpoint_every": 1, "learning_rate": 0.001},
        rollout={"max_new_tokens": 8, "chunk_size": 24},  # one for each process
    )
    start = time.monotonic()
    run = ranks.trained(few, tmp_path / "run", also=Quick(1, slow_rewards))
    assert time.monotonic() - start > SLOW > SILENCE
    assert len(runs.metrics(run)) == 1


def slow_rewards() -> None:
    """Slower than silence allows a process to be: it still beats."""
    from latentpad.training import collect

    original = collect.grade_rollouts

    def grade(*args: Any) -> Any:
        time.sleep(SLOW)
        return original(*args)

    collect.grade_rollouts = grade


def test_a_reward_that_never_ends_is_given_up_and_named(base: Path, tmp_path: Path) -> None:
    few = runs.write_rl(
        base,
        tmp_path / "few",
        training={"steps": 2, "checkpoint_every": 2, "learning_rate": 0.001},
        rollout={"max_new_tokens": 8, "chunk_size": 24},
    )
    run = tmp_path / "run"
    children = ranks.start(few, run, also=Impatient())
    assert ranks.finish(children)[0] == 3
    assert "waited 4 s for rank 1: a reward or a rollout there does not end" in told(run)[0]


@dataclass(frozen=True)
class Impatient:
    def __call__(self, rank: int) -> None:
        from latentpad.training import collect
        from latentpad.training.processes import world

        world.PATIENCE = 4.0
        if rank == 1:
            collect.grade_rollouts = lambda *_: time.sleep(3600)

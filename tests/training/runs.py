"""Small whole runs that the tests of resuming and of rolling back share, and when two of them are the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from latentpad.recipe.errors import Diverged
from latentpad.recipe.load import dump
from latentpad.training.checkpoint import STATE
from latentpad.training.learner import Learner
from latentpad.training.state import TrainingState
from tests import tiny
from tests.training import worker

PAYS = {"prompts_per_step": 6, "group_size": 8}
SHORT = {"max_new_tokens": 8, "chunk_size": 48}


@cache
def base(folder: Path, *, steps: int = 80) -> Path:
    """A checkpoint that answers one-digit sums, some after 80 steps and most after 300; made once a test session.

    Args:
        folder: that all tests of the session share (`tmp_path_factory.getbasetemp()`).
        steps: of pretraining.
    """
    home = folder / f"base-{steps}"
    home.mkdir()
    recipe = tiny.recipe(
        "pretrain",
        pretrain={"documents_per_step": 32, "scratchpad_share": 0.0},
        training={
            "steps": steps,
            "learning_rate": 0.02,
            "schedule": "constant" if steps < 100 else "cosine",
            "checkpoint_every": steps,
            "micro_batch_tokens": 4096,
        },
    )
    (home / "recipe.yaml").write_text(dump(recipe))
    assert worker.finish(worker.start(home / "recipe.yaml", home / "run")) == 0
    return home / "run" / "checkpoints" / str(steps)


def write_rl(base: Path, folder: Path, **changes: Any) -> Path:
    """The recipe of a small RL run on the base, in its own file."""
    sections: dict[str, Any] = {
        "model": {"path": str(base)},
        "rl": PAYS,
        "rollout": SHORT,
        "scratchpad": "empty",
        "evaluation": {"problems": 4, "max_new_tokens": 8},
    }
    for name, value in changes.items():
        sections[name] = {**sections[name], **value} if isinstance(sections.get(name), dict) else value
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(dump(tiny.recipe("rl", **sections)))
    return folder / "recipe.yaml"


def metrics(run: Path) -> list[dict[str, Any]]:
    """What the run logged, without what may differ between equal runs."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "timing"} for record in records]


def alarms(run: Path) -> list[dict[str, Any]]:
    """The alarms that the run wrote down."""
    file = run / "alarms.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a nested state by its path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{name}/{i}").items()}
    return {name: value}


def saved(checkpoint: Path, name: str = STATE) -> dict[str, Any]:
    """Every leaf of a state that a checkpoint holds, but the seconds that the run took."""
    state = flat(torch.load(checkpoint / name, weights_only=True))
    return {leaf: value for leaf, value in state.items() if leaf != "/counters/seconds"}


def assert_equal(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    """To the bit, leaf by leaf."""
    assert found.keys() == expected.keys(), what
    for leaf, value in expected.items():
        same = torch.equal(found[leaf], value) if isinstance(value, torch.Tensor) else found[leaf] == value
        assert same, f"{what}{leaf}"


def assert_same_run(found: Path, expected: Path, *, steps: int) -> None:
    """To the bit: metrics, alarms, weights, optimizers, all parts of the state, evaluation; only times may differ."""
    assert metrics(found) == metrics(expected)
    assert [record["step"] for record in metrics(found)] == list(range(1, steps + 1))
    assert alarms(found) == alarms(expected)
    ours, theirs = (run / "checkpoints" for run in (found, expected))
    assert sorted(f.name for f in ours.iterdir()) == sorted(f.name for f in theirs.iterdir())
    ours, theirs = ours / str(steps), theirs / str(steps)
    [weights] = [f.name for f in theirs.glob("*.safetensors")]
    assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    states = {f.name for f in theirs.iterdir()} & {STATE, "optimizer.pt", "scheduler.pt"}
    assert states in ({STATE}, {"optimizer.pt", "scheduler.pt"})
    for name in states:
        assert_equal(saved(ours, name), saved(theirs, name), name)
    files = sorted(f.name for f in (expected / "eval").iterdir())
    assert files == [f"{steps}.json", f"{steps}.jsonl"]
    for name in files:
        assert (found / "eval" / name).read_bytes() == (expected / "eval" / name).read_bytes()


@dataclass(frozen=True)
class Trouble:
    """Learning goes wrong from a step on (from 1), while the learning rates are at least `while_scale` times theirs.

    Attributes:
        step: the first that goes wrong.
        raises: it raises `Diverged` after the weights were changed; otherwise its loss is not a number.
        while_scale: smaller steps cure it; 0 is incurable.
        die_once: at the first roll back that finds no such file the process kills itself, `before` or `after` it.
        when: that is.
    """

    step: int
    raises: bool = False
    while_scale: float = 1.0
    die_once: Path | None = None
    when: Literal["before", "after"] = "after"

    def learner_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """For `Learner.step`."""

        def step(learner: Learner, batches: Any, step: int, kl_coef: float = 0.0) -> dict[str, float]:
            values: dict[str, float] = original(learner, batches, step, kl_coef)
            if step + 1 >= self.step and learner.optimizer.step_scale >= self.while_scale:
                if self.raises:
                    raise Diverged(f"gradient norm is nan at step {step + 1}")
                values["loss"] = float("nan")
            return values

        return step

    def __call__(self) -> None:
        """Bring it about in this process, for good."""
        Learner.step = self.learner_step(Learner.step)  # type: ignore[method-assign]
        if self.die_once is not None:
            original, marker = TrainingState.roll_back, self.die_once

            def roll_back(state: TrainingState, step_factor: float, why: str) -> None:
                first = not marker.exists()
                marker.touch()
                if self.when == "after":
                    original(state, step_factor, why)
                if first:
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.when == "before":
                    original(state, step_factor, why)

            TrainingState.roll_back = roll_back  # type: ignore[method-assign]

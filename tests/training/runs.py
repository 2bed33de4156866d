"""Small whole runs that the tests of resuming and of rolling back share, and when two of them are the same."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from latentpad.recipe.load import dump
from latentpad.training.checkpoint import STATE
from tests import tiny
from tests.training import worker

SUM_STEPS = 80
PAYS = {"prompts_per_step": 6, "group_size": 8}
SHORT = {"max_new_tokens": 8, "chunk_size": 48}


@cache
def base(folder: Path) -> Path:
    """A checkpoint that answers some one-digit sums, so that its groups carry a signal; made once a test session.

    Args:
        folder: that all tests of the session share (`tmp_path_factory.getbasetemp()`).
    """
    home = folder / "base"
    home.mkdir()
    recipe = tiny.recipe(
        "pretrain",
        pretrain={"documents_per_step": 32, "scratchpad_share": 0.0},
        training={
            "steps": SUM_STEPS,
            "learning_rate": 0.02,
            "checkpoint_every": SUM_STEPS,
            "micro_batch_tokens": 4096,
        },
    )
    (home / "recipe.yaml").write_text(dump(recipe))
    assert worker.finish(worker.start(home / "recipe.yaml", home / "run")) == 0
    return home / "run" / "checkpoints" / str(SUM_STEPS)


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

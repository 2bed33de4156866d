"""A policy that writes programs: executed in the sandbox, in training and in evaluation, and recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.cli import main
from reward.sandbox import ExecutionResult, Status, shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Data = dict[str, Any]


@pytest.fixture
def program_recipe(recipe_data: Data, tmp_path: Path) -> Data:
    rows = []
    for n in range(60):
        gold = {"asserts": [f"assert f(1) == {n + 1}"], "entry": "f"}
        rows.append({"question": f"f adds {n}", "answer": gold, "solution": f"def f(x): return x + {n}"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe_data["task"] = {
        "name": "jsonl",
        "path": str(tmp_path / "rows.jsonl"),
        "solution_column": "solution",
        "grader": "program",
        "grader_options": {"cpu_seconds": 0.5},
    }
    recipe_data["format"] = "lines"
    recipe_data["model"]["scratch"]["max_positions"] = 256
    return recipe_data


def test_programs_are_graded_by_execution(
    program_recipe: Data, written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(written(program_recipe)), "--out", str(run)]) == 0
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step["grader_failed"] for step in steps] == [0.0, 0.0]
    assert [step["reward"] for step in steps] == [0.0, 0.0]  # a random policy writes no program
    assert json.loads((run / "environment.json").read_text())["sandbox"].startswith(f"tier: {shared().tier}")
    (cells,) = json.loads((run / "eval" / "2.json").read_text())["cells"][:1]
    assert cells["grader_failed"] == 0.0


def test_a_sandbox_that_breaks_stops_the_run_in_one_line_and_teaches_nothing(
    program_recipe: Data,
    written: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = ExecutionResult(Status.SANDBOX_ERROR, "", "no more processes", None, 0.0, 0.0)
    monkeypatch.setattr("latentpad.preflight._check_gold", lambda *_: "not looked at")
    monkeypatch.setattr(type(shared()), "run", lambda *_, **__: broken)
    run = tmp_path / "run"
    assert main(["train", str(written(program_recipe)), "--out", str(run), "rollout.max_new_tokens=60"]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("latentpad: step 1: the grader failed on ")
    assert "no more processes" in line
    assert not (run / "metrics.jsonl").exists()

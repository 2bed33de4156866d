"""Finished runs written by hand: what `latentpad compare` reads, without any training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from latentpad.recipe.load import dump
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MACHINE = {"python": "3.11", "cpu": "X", "threads": 1, "git_commit": "abc", "packages": {"torch": "2.13", "peft": None}}
COUNTERS = {"samples": 100, "tokens_generated": 0, "tokens_trained": 300, "seconds": 10.0}
STEP = 8


def write_run(
    home: Path,
    arm: str,
    seed: int,
    verdicts: dict[str, str],
    *,
    method: str = "rl",
    tries: Sequence[dict[str, Any]] = (),
    machine: dict[str, Any] | None = None,
    counters: dict[str, float] | None = None,
    **changes: Any,
) -> Path:
    """A finished run at `home/arm/seed-N`; `verdicts` of a cell are a 1 or 0 a problem."""
    folder = home / arm / f"seed-{seed}"
    (folder / "eval").mkdir(parents=True)
    recipe = tiny.recipe(method, name=arm, seed=seed, **changes)
    (folder / "recipe.yaml").write_text(dump(recipe))
    (folder / "key.txt").write_text(f"key-{arm}-{seed}\n")
    (folder / "environment.json").write_text(json.dumps({**MACHINE, **(machine or {})}))
    (folder / "done.json").write_text(
        json.dumps({"key": "k", "step": STEP, "counters": {**COUNTERS, **(counters or {})}})
    )
    write_evaluation(folder, STEP, verdicts)
    if tries:
        (folder / "eval" / f"{STEP}.tries.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tries))
    return folder


def write_evaluation(folder: Path, step: int, verdicts: dict[str, str]) -> None:
    cells, records = [], []
    for cell, marks in verdicts.items():
        accuracy = marks.count("1") / len(marks)
        cells.append({"cell": cell, "decoding": "greedy", "n": len(marks), "accuracy": accuracy})
        for number, mark in enumerate(marks):
            outcome = "CORRECT" if mark == "1" else "WRONG"
            records.append({"problem": f"{cell}/{number}", "cell": cell, "decoding": "greedy", "outcome": outcome})
    (folder / "eval" / f"{step}.json").write_text(json.dumps({"step": step, "cells": cells}))
    (folder / "eval" / f"{step}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def tally(cell: str, problem: str, *answers: tuple[str | None, bool, int]) -> dict[str, Any]:
    n, correct = sum(c for *_, c in answers), sum(c for _, right, c in answers if right)
    return {"cell": cell, "problem": problem, "n": n, "correct": correct, "answers": [list(a) for a in answers]}

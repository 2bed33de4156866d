"""Arms beside a baseline on the same problems and seeds: all numbers of `latentpad compare`, as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from latentpad.experiments.compare import compare_paired
from latentpad.experiments.curves import curves
from latentpad.experiments.differences import differences, in_words, refuse_idle, refuse_undeclared
from latentpad.experiments.finished import COSTS, find_arms
from latentpad.experiments.intervals import estimate, holm, interquartile_mean, success_rate
from latentpad.experiments.tried import tried
from latentpad.recipe.errors import RecipeError, unknown
from latentpad.tasks import build_task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.experiments.finished import FinishedArm

    Json = dict[str, Any]

MEAN = "mean of trained cells"


def compare_folders(
    folders: Sequence[Path],
    *,
    baseline: str | None = None,
    cell: str | None = None,
    decoding: str = "greedy",
    differ: Sequence[str] = (),
    success: float = 0.9,
) -> Json:
    """Compare the finished arms in some folders with a baseline.

    Args:
        folders: of runs, arms or experiments.
        baseline: an arm; the first if not given.
        cell: to show only; the mean of the trained cells and each cell if not given.
        decoding: to compare.
        differ: dotted keys that may differ, besides what an experiment declares.
        success: the accuracy at which a seed counts as a success.

    Raises:
        RecipeError: nothing to compare, or arms that are not comparable.
    """
    arms, left_out = find_arms(folders)
    arms = _baseline_first(arms, baseline, left_out)
    found = [differences(arm, arms[0]) for arm in arms[1:]]
    refuse_idle(differ, found)
    for arm, unlike in zip(arms[1:], found, strict=True):
        refuse_undeclared(arm, arms[0], unlike, differ)
    seeds = _common_seeds(arms)
    _refuse_other_problems(arms, decoding)
    trained = list(build_task(arms[0].first.recipe.task).cells)
    cells = _cells(arms[0], trained, cell, decoding)
    rows = [_row(name, parts, arms, seeds, decoding, success) for name, parts in cells.items()]
    _adjust(rows)
    return {
        "baseline": arms[0].name,
        "decoding": decoding,
        "seeds": seeds,
        "success_threshold": success,
        "left_out": left_out,
        "notes": _notes(arms, seeds),
        "train_cells": trained,
        "arms": [_arm(arm, seeds) for arm in arms],
        "differences": [in_words(arm, arms[0], unlike) for arm, unlike in zip(arms[1:], found, strict=True)],
        "cells": rows,
        "curves": curves(arms, seeds, next(iter(cells.values())), decoding),
        "tries": tried(arms, seeds, cells),
    }


def _baseline_first(arms: list[FinishedArm], baseline: str | None, left_out: Sequence[str]) -> list[FinishedArm]:
    if len(arms) < 2:
        got = ", ".join(arm.name for arm in arms) or "none"
        also = f"; {'; '.join(left_out)}" if left_out else ""
        raise RecipeError(f"expected two finished arms or more, got {got}: give more folders{also}")
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise RecipeError(f"--baseline: {unknown('arm', baseline, names)}")
    first = arms[0 if baseline is None else names.index(baseline)]
    return [first, *(arm for arm in arms if arm is not first)]


def _common_seeds(arms: Sequence[FinishedArm]) -> list[int]:
    seeds = sorted(set.intersection(*(set(arm.runs) for arm in arms)))
    if not seeds:
        each = ", ".join(f"{arm.name} {sorted(arm.runs)}" for arm in arms)
        raise RecipeError(f"no seed is finished in every arm: {each}: run the missing seeds, or leave an arm out")
    return seeds


def _notes(arms: Sequence[FinishedArm], seeds: Sequence[int]) -> list[str]:
    """What a reader must know of how the numbers came together."""
    notes = []
    for arm in arms:
        if dropped := sorted(set(arm.runs) - set(seeds)):
            notes.append(f"{arm.name}: seeds {', '.join(map(str, dropped))} left out: not finished in every arm")
    if len(seeds) == 1:
        notes.append("one seed: intervals and p-values are over problems only and say nothing of another seed")
    return notes


def _refuse_other_problems(arms: Sequence[FinishedArm], decoding: str) -> None:
    """Every run must have answered the same problems of the same cells."""
    expected: dict[str, set[str]] | None = None
    for run in (run for arm in arms for run in arm.runs.values()):
        if decoding not in run.verdicts:
            raise RecipeError(f"--decoding: {unknown('decoding', decoding, run.verdicts)} in {run.folder}")
        answered = {cell: set(verdicts) for cell, verdicts in run.verdicts[decoding].items()}
        expected = expected or answered
        if answered != expected:
            cell = next(c for c in (*expected, *answered) if answered.get(c) != expected.get(c))
            numbers = [len(side.get(cell, ())) for side in (answered, expected)]
            raise RecipeError(
                f"{run.folder}: other problems at {cell} than {arms[0].first.folder} ({numbers[0]} and {numbers[1]}): "
                "run 'latentpad eval' on both with the same evaluation keys"
            )


def _cells(baseline: FinishedArm, trained: Sequence[str], cell: str | None, decoding: str) -> dict[str, list[str]]:
    """What is shown: a name, and the cells that it is the mean of."""
    there = baseline.first.verdicts[decoding]
    if cell is not None and cell not in there:
        raise RecipeError(f"--cell: {unknown('cell', cell, there)}")
    shown = {name: [name] for name in ([cell] if cell else there)}
    parts = [name for name in trained if name in there]
    if cell is None and len(parts) > 1:
        shown = {MEAN: parts, **shown}
    for name, part in shown.items():
        if any(len(there[c]) < 2 for c in part):
            raise RecipeError(f"{name}: one problem a cell; expected two or more: run 'latentpad eval' with more")
    return shown


def _row(
    name: str, parts: list[str], arms: Sequence[FinishedArm], seeds: Sequence[int], decoding: str, success: float
) -> Json:
    """One cell, or the mean of several that count alike: each arm, and each against the first."""
    problems = [(cell, problem) for cell in parts for problem in sorted(arms[0].first.verdicts[decoding][cell])]
    strata = [cell for cell, _ in problems]
    right = {
        arm.name: np.array(
            [[arm.runs[seed].verdicts[decoding][cell][problem] for cell, problem in problems] for seed in seeds], float
        )
        for arm in arms
    }
    ids = ["/".join(problem) for problem in problems]
    theirs = right[arms[0].name]
    comparisons = []
    for arm in arms[1:]:
        ours = right[arm.name]
        found = asdict(estimate(ours - theirs, strata))
        each = [
            {"seed": seed}
            | asdict(compare_paired(dict(zip(ids, mine, strict=True)), dict(zip(ids, other, strict=True))))
            for seed, mine, other in zip(seeds, (ours > 0).tolist(), (theirs > 0).tolist(), strict=True)
        ]
        comparisons.append({"arm": arm.name, "difference": found.pop("mean"), **found, "mcnemar": each})
    return {
        "cell": name,
        "problems": len(problems),
        "arms": [{"arm": arm.name, **_levels(right[arm.name], parts, strata, success)} for arm in arms],
        "comparisons": comparisons,
    }


def _levels(right: Any, parts: Sequence[str], strata: Sequence[str], success: float) -> Json:
    """Every seed's accuracy, and the seeds together."""
    labels = np.array(strata)
    each = [fmean(float(seed[labels == cell].mean()) for cell in parts) for seed in right]
    return {
        "each_seed": each,
        "mean": fmean(each),
        "iqm": interquartile_mean(each),
        "min": min(each),
        "max": max(each),
        "success": asdict(success_rate(each, success)),
    }


def _adjust(rows: Sequence[Json]) -> None:
    """Holm's correction over all comparisons that are shown."""
    family = [comparison for row in rows for comparison in row["comparisons"]]
    for comparison, p_value in zip(family, holm([c["p_value"] for c in family]), strict=True):
        comparison["p_holm"] = p_value
        comparison["family"] = len(family)


def _arm(arm: FinishedArm, seeds: Sequence[int]) -> Json:
    """What an arm is and what each seed of it cost, alone and with all that it started from."""
    runs = [arm.runs[seed] for seed in seeds]
    totals = [run.total_costs for run in runs]
    return {
        "arm": arm.name,
        "method": arm.first.recipe.method,
        "folders": [str(run.folder) for run in runs],
        "own_costs": {name: [run.costs[name] for run in runs] for name in COSTS},
        "total_costs": None if None in totals else {n: [total[n] for total in totals if total] for n in COSTS},
    }

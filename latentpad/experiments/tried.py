"""pass@k and maj@k of arms by their many tries at the same problems, and where they cross the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from latentpad.evaluation.tries import crossing, majority_at, pass_at, powers_of_two
from latentpad.experiments.intervals import estimate
from latentpad.seeding import seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from latentpad.experiments.finished import FinishedArm

    Json = dict[str, Any]
    Array = NDArray[np.float64]
    # (cell, problem) -> its tally, one such mapping a seed.
    Tallies = list[dict[tuple[str, str], Json]]


def tried(arms: Sequence[FinishedArm], seeds: Sequence[int], cells: dict[str, list[str]]) -> Json | None:
    """pass@k and maj@k at k = 1, 2, 4, ..., n for the arms that have tries at every seed; None if fewer than two have.

    Problems that all of them tried count, and k goes up to the fewest tries that any made. Intervals are over seeds
    and problems, as of `estimate`; they are not corrected for how many there are. The baseline is the first arm that
    has tries.

    Args:
        arms: the baseline first.
        seeds: that all of them have.
        cells: a name, and the cells that it is the mean of.
    """
    tallies: dict[str, Tallies] = {}
    for arm in arms:
        each = [{(t["cell"], t["problem"]): t for t in arm.runs[seed].tries} for seed in seeds]
        if all(each):
            tallies[arm.name] = each
    if len(tallies) < 2:
        return None
    shared = set.intersection(*(set(seed) for each in tallies.values() for seed in each))
    parts = {name: [c for c in part if sum(cell == c for cell, _ in shared) > 1] for name, part in cells.items()}
    kept = {name: sorted(p for p in shared if p[0] in part) for name, part in parts.items() if part == cells[name]}
    if not any(kept.values()):
        return None
    n = min(t["n"] for each in tallies.values() for seed in each for key, t in seed.items() if key in shared)
    without = [arm.name for arm in arms if arm.name not in tallies]
    rows = [_row(name, problems, tallies, n) for name, problems in kept.items()]
    return {"n": n, "without": without, "baseline": next(iter(tallies)), "cells": rows}


def _row(name: str, problems: list[tuple[str, str]], tallies: dict[str, Tallies], n: int) -> Json:
    strata = [cell for cell, _ in problems]
    curves = {arm: _passed(each, problems, n) for arm, each in tallies.items()}
    baseline = next(iter(curves))
    means = {
        arm: [float(_by_stratum(passed[k - 1], strata)) for k in range(1, n + 1)] for arm, passed in curves.items()
    }
    arms = []
    for arm, passed in curves.items():
        points = []
        for k in powers_of_two(n):
            level = estimate(passed[k - 1], strata, least=0.0)
            point = {"k": k, "pass": level.mean, "low": level.low, "high": level.high}
            point["maj"] = float(_by_stratum(_majority(tallies[arm], problems, k), strata))
            if arm != baseline:
                gap = estimate(passed[k - 1] - curves[baseline][k - 1], strata)
                point |= {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
            points.append(point)
        crossed = {} if arm == baseline else {"crosses_at": crossing(means[arm], means[baseline])}
        arms.append({"arm": arm, **crossed, "points": points})
    return {"cell": name, "problems": len(problems), "arms": arms}


def _passed(each: Tallies, problems: Sequence[tuple[str, str]], n: int) -> list[Array]:
    """For each k = 1 to n, pass@k of every problem: [S, N]."""
    ks = range(1, n + 1)
    counts = [[(seed[p]["n"], seed[p]["correct"]) for p in problems] for seed in each]
    known = {m: {k: pass_at(m, range(m + 1), k) for k in ks} for m in {m for seed in counts for m, _ in seed}}
    return [np.array([[known[m][k][c] for m, c in seed] for seed in counts]) for k in ks]


def _majority(each: Tallies, problems: Sequence[tuple[str, str]], k: int) -> Array:
    return np.array(
        [[majority_at(seed[p]["answers"], k, seed=seed_of("majority", *p, k)) for p in problems] for seed in each]
    )


def _by_stratum(values: Array, strata: Sequence[str]) -> float:
    """The mean over seeds and problems, every stratum alike."""
    labels = np.array(strata)
    return float(np.mean([values[:, labels == cell].mean() for cell in dict.fromkeys(strata)]))

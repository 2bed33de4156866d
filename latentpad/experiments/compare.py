"""Two policies on the same problems: the paired difference, its interval, and the exact McNemar test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest, norm


@dataclass(frozen=True, slots=True)
class Paired:
    """What a paired comparison says.

    Attributes:
        n: problems that both answered.
        only_arm, only_baseline: problems that only one of them got right.
        difference: accuracy of the arm minus that of the baseline.
        low, high: its 95% Wald interval for paired shares (Agresti & Min 2005, with their +0.5 to each cell).
        p_value: exact McNemar test, two-sided: a sign test on the problems that they disagree on.
    """

    n: int
    only_arm: int
    only_baseline: int
    difference: float
    low: float
    high: float
    p_value: float


def compare_paired(arm: dict[str, bool], baseline: dict[str, bool]) -> Paired:
    """Compare two policies on the problems that both answered.

    Args:
        arm: problem id -> right.
        baseline: the same.

    Raises:
        ValueError: they share no problem.

    >>> compare_paired({"a": True, "b": True, "c": False}, {"a": True, "b": False, "c": False}).difference
    0.3333333333333333
    """
    shared = sorted(arm.keys() & baseline.keys())
    n = len(shared)
    if n == 0:
        raise ValueError("the two policies answered no problem in common")
    gained = sum(arm[p] and not baseline[p] for p in shared)
    lost = sum(baseline[p] and not arm[p] for p in shared)
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    b, c, total = gained + 0.5, lost + 0.5, n + 2
    centre = (b - c) / total
    spread = float(norm.ppf(0.975)) * math.sqrt((b + c) - (b - c) ** 2 / total) / total
    return Paired(n, gained, lost, (gained - lost) / n, max(-1.0, centre - spread), min(1.0, centre + spread), p_value)

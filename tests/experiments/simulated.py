"""Answers of two arms simulated with a known truth, and how often an interval holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import t

from latentpad.experiments.intervals import crossed_variance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DIFFICULTY = 1.5  # sd of problems, in logits
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(81)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _accuracy(logit: float, sd: float) -> float:
    """The mean of the logistic function under a normal distribution, by Gauss-Hermite quadrature."""
    return float(_WEIGHTS @ expit(logit + sd * _POINTS))


@dataclass(frozen=True)
class World:
    """Seeds, problems, accuracies of the baseline and of the arm, and what seeds of an arm differ by (sd, accuracy).

    `arm_problem` and `seed_problem` (sd, logits): how arms, and seeds of an arm, differ in which problems they can do.
    """

    seeds: int
    problems: int
    baseline: float
    arm: float
    seed_sd: float
    arm_problem: float = 0.7
    seed_problem: float = 0.7

    def right(self, rng: np.random.Generator, accuracy: float, difficulty: Array) -> NDArray[np.bool_]:
        """Right answers of an arm, [R, S, N], in R experiments on problems of this difficulty, [R, 1, N]."""
        r, s, n = len(difficulty), self.seeds, self.problems
        fixed = float(np.sqrt(DIFFICULTY**2 + self.arm_problem**2 + self.seed_problem**2))
        middle = brentq(lambda m: _accuracy(m, fixed) - accuracy, -30, 30)
        shares = expit(middle + fixed * _POINTS)
        between_seeds = self.seed_sd / float(_WEIGHTS @ (shares * (1 - shares)))  # in logits
        total = float(np.hypot(fixed, between_seeds))
        middle = brentq(lambda m: _accuracy(m, total) - accuracy, -30, 30)
        normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
        logits = middle + difficulty + self.arm_problem * normal(r, 1, n)
        logits = logits + between_seeds * normal(r, s, 1) + self.seed_problem * normal(r, s, n)
        return np.asarray(rng.random((r, s, n), dtype=np.float32) < expit(logits))

    def differences(self, repeats: int, seed: int = 0) -> Array:
        """Arm minus baseline, [R, S, N]; their mean over all seeds and problems that could be is `truth`."""
        rng = np.random.default_rng(seed)
        difficulty = DIFFICULTY * rng.standard_normal((repeats, 1, self.problems), dtype=np.float32)
        arm, baseline = (self.right(rng, accuracy, difficulty) for accuracy in (self.arm, self.baseline))
        return arm.astype(np.float64) - baseline

    def levels(self, repeats: int, seed: int = 0) -> Array:
        """Right answers of the arm alone, [R, S, N]."""
        rng = np.random.default_rng(seed)
        difficulty = DIFFICULTY * rng.standard_normal((repeats, 1, self.problems), dtype=np.float32)
        return self.right(rng, self.arm, difficulty).astype(np.float64)

    @property
    def truth(self) -> float:
        return self.arm - self.baseline


def covered(values: Array, truth: float) -> float:
    """How often the interval of `estimate` holds the truth, over data sets [R, S, N]."""
    variance, df = crossed_variance(values)
    alike = variance <= 1e-24  # there `estimate` bounds the share of exceptions instead
    spread = np.where(alike, 1 - 0.025 ** (1 / values.shape[-1]), t.ppf(0.975, df) * np.sqrt(variance))
    return float((np.abs(values.mean((-2, -1)) - truth) <= spread).mean())


def bootstrapped(values: Array, truth: float, *, draws: int = 400, crossed: bool = False, seed: int = 1) -> float:
    """How often the percentile bootstrap over seeds, then problems (anew in each seed, or crossed), holds it."""
    rng = np.random.default_rng(seed)
    repeats, seeds, problems = values.shape
    hits = 0
    for data in values:
        drawn = rng.integers(seeds, size=(draws, seeds))
        kinds = 1 if crossed else seeds
        counts = rng.multinomial(problems, np.full(problems, 1 / problems), size=(draws, kinds))
        means = np.stack([counts[:, j % kinds] @ data.T / problems for j in range(seeds)], axis=1)  # [draws, j, seed]
        replicates = np.take_along_axis(means, drawn[:, :, None], axis=2).mean((1, 2))
        low, high = np.quantile(replicates, [0.025, 0.975])
        hits += bool(low <= truth <= high)
    return hits / repeats

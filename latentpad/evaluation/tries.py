"""Many responses a problem: what they were, and from their counts pass@k and maj@k without bias."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from latentpad.training.episodes import shown_answer
from reward import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from latentpad.tasks import Task
    from latentpad.types import Episode

    Array = NDArray[np.float64]
    Answers = Sequence[tuple[str | None, bool, int]]

_DRAWS = 1000  # of a majority; the standard error for one problem is at most 0.016
_READ = (Outcome.CORRECT, Outcome.WRONG)


def tally(task: Task, cell: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """One line of `eval/<step>.tries.jsonl`: all responses to one problem, as counts.

    `answers` holds [answer, right, count] in order of first appearance. The answer is null where none was read:
    a response that is unparseable or truncated, or whose grader failed.
    """
    counts: Counter[tuple[str | None, bool]] = Counter()
    for episode in episodes:
        outcome = episode.reward.outcome
        answer = shown_answer(task, episode.response) if outcome in _READ else None
        counts[answer, outcome is Outcome.CORRECT] += 1
    return {
        "cell": cell,
        "problem": episodes[0].rollout.prompt.problem.id,
        "n": len(episodes),
        "correct": sum(count for (_, right), count in counts.items() if right),
        "answers": [[answer, right, count] for (answer, right), count in counts.items()],
    }


def pass_at(n: int, correct: Sequence[int] | NDArray[np.int64], k: int) -> Array:
    """The chance that k of a problem's n responses, drawn without replacement, hold a right one: unbiased pass@k.

    1 - C(n - c, k) / C(n, k), as the product 1 - prod_{j = n-c+1..n} (1 - k / j), which does not overflow (Chen et
    al. 2021, arXiv 2107.03374, section 2.1).

    Args:
        n: responses to each problem.
        correct: right ones among them, [P].
        k: at most n.

    Returns:
        [P]. Its mean over problems is pass@k.

    Raises:
        ValueError: k or a count is out of range.

    >>> pass_at(4, [0, 1, 2, 4], 2).round(4).tolist()
    [0.0, 0.5, 0.8333, 1.0]
    """
    counts = np.asarray(correct)
    if not 1 <= k <= n or counts.min() < 0 or counts.max() > n:
        raise ValueError(f"expected 1 <= k <= n and counts of 0 to n, got k={k}, n={n}")
    factors = 1 - k / np.arange(n, 0, -1)  # of j = n, n-1, ..., 1; the one at j = k is 0, none before it is negative
    products = np.concatenate([[1.0], np.cumprod(np.maximum(factors, 0.0))])
    passed: Array = 1 - products[counts]
    return passed


def majority_at(answers: Answers, k: int, *, seed: int = 0) -> float:
    """The chance that the majority among k of a problem's responses, drawn without replacement, is right: maj@k.

    An answer that was not read has no vote; where no drawn response has one, the majority is wrong. Among answers that
    tie, each is chosen alike. Exact for k = 1 and k = n, else the mean of 1000 draws (standard error <= 0.016 a
    problem), by a generator of its own. Wang et al. 2022 (arXiv 2203.11171).

    Args:
        answers: (answer, right, count) of all n responses.
        k: at most n.
        seed: of the draws.

    Raises:
        ValueError: k is out of range.

    >>> majority_at([("7", True, 3), ("8", False, 2), (None, False, 4)], 9)
    1.0
    """
    counts = np.array([count for *_, count in answers])
    n = int(counts.sum())
    if not 1 <= k <= n:
        raise ValueError(f"expected 1 <= k <= {n} responses, got k={k}")
    right = np.array([bool(is_right) for _, is_right, _ in answers])
    votes = np.array([answer is not None for answer, _, _ in answers])
    if k == 1 or not (right & votes).any():
        return float(counts[right & votes].sum() / n)
    if k == n:
        drawn = counts[None]
    else:
        rng = np.random.default_rng([seed, n, k])
        drawn = rng.multivariate_hypergeometric(counts, k, size=_DRAWS, method="marginals")
    drawn = drawn * votes
    top = drawn.max(1, keepdims=True)
    first = (drawn == top) & (top > 0)
    return float(((first & right).sum(1) / np.maximum(first.sum(1), 1)).mean())


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... below n, and n.

    >>> powers_of_two(12)
    [1, 2, 4, 8, 12]
    """
    return [2**i for i in range(n.bit_length()) if 2**i < n] + [n]


def crossing(trained: Sequence[float], base: Sequence[float]) -> int | None:
    """The smallest k from which the base is at or above the trained policy up to the last k; None if it never is.

    Where that k is above 1, training narrowed what the policy can reach (Yue et al. 2025, arXiv 2504.13837). Curves
    that have met, at 1 for example, count as crossed: look at both.

    Args:
        trained, base: pass@k at k = 1, 2, 3, ...

    >>> crossing([0.5, 0.6, 0.65], [0.2, 0.6, 0.8]), crossing([0.5, 0.9], [0.2, 0.8])
    (2, None)
    """
    below = [k for k, (t, b) in enumerate(zip(trained, base, strict=True), start=1) if b < t - 1e-12]
    last = max(below, default=0)
    return None if last == len(trained) else last + 1

"""The coefficient of a KL term, steered so that KL comes to a target."""

from __future__ import annotations

from typing import Any

MAX_ERROR = 0.2
GAIN = 0.1


class KLControl:
    """Proportional control in log space (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    `coef` grows by at most 2% a step while KL (nats a token) is above `target`, and shrinks so below. Without a
    `target` it stays what it is.

    >>> control = KLControl(coef=0.5, target=0.01)
    >>> control.observe(0.011)  # 10% above the target: 1% more
    >>> round(control.coef, 9)
    0.505
    """

    def __init__(self, coef: float, target: float | None) -> None:
        self.coef = coef
        self._target = target

    def observe(self, kl: float) -> None:
        """Take a step's mean KL into account."""
        if self._target is not None:
            error = min(max(kl / self._target - 1, -MAX_ERROR), MAX_ERROR)
            self.coef *= 1 + GAIN * error

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, like JSON."""
        return {"coef": self.coef}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.coef = state["coef"]

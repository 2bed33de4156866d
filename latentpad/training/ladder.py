"""The curriculum of an RL run: which cells a step's prompts come from, and when a harder one joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentpad.seeding import rng_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.recipe.rl_schema import LadderSection


class Ladder:
    """Rungs from easy to hard; `frontier` is the index of the hardest that prompts come from."""

    def __init__(self, section: LadderSection) -> None:
        self.frontier = 0
        self._section = section
        self._verdicts: list[int] = []  # of the newest rollouts at the frontier, 1 is right; oldest first

    def cells(self, count: int, *names: str | int) -> list[str]:
        """The cells of a step's `count` prompts, drawn by `names`.

        `frontier_share` of them (rounded, at least one) are at the frontier, the rest at the rungs below alike. Which
        of these get one more where that does not divide, and the order, are drawn.
        """
        rungs, below = self._section.rungs, self.frontier
        rng = rng_of("ladder", *names)
        at_frontier = max(1, round(self._section.frontier_share * count)) if below else count
        each, left = divmod(count - at_frontier, below) if below else (0, 0)
        lower = rungs[:below] * each + rng.sample(rungs[:below], left)
        drawn = [rungs[self.frontier]] * at_frontier + lower
        rng.shuffle(drawn)
        return drawn

    def observe(self, rates: Sequence[tuple[str, bool]]) -> bool:
        """Take the (cell, right) of a step's rollouts, in order; whether the next rung became the frontier.

        Only rollouts at the frontier count, and only since it is the frontier.
        """
        section = self._section
        frontier = section.rungs[self.frontier]
        self._verdicts += [int(right) for cell, right in rates if cell == frontier]
        self._verdicts = self._verdicts[-section.window :]
        if self.frontier == len(section.rungs) - 1 or len(self._verdicts) < section.window:
            return False
        if sum(self._verdicts) / section.window < section.promote_at:
            return False
        self.frontier += 1
        self._verdicts = []
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, like JSON."""
        return {"frontier": self.frontier, "verdicts": list(self._verdicts)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.frontier = state["frontier"]
        self._verdicts = list(state["verdicts"])

"""Which runs of an experiment may start, given what became of the others."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class State(Enum):
    """Where a run stands."""

    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    SKIPPED = auto()


class Schedule:
    """Which runs may start, given what became of the others.

    >>> schedule = Schedule([None, 0, 0], at_once=2)
    >>> schedule.startable()
    [0]
    >>> schedule.mark(0, State.DONE)
    >>> schedule.startable()
    [1, 2]
    """

    def __init__(self, parents: Sequence[int | None], at_once: int) -> None:
        """Of each run, the run that it starts from; how many run at a time."""
        self._parents, self._at_once = list(parents), at_once
        self.states = [State.WAITING] * len(self._parents)

    @property
    def open(self) -> bool:
        """Whether any run is still to end."""
        return State.WAITING in self.states or State.RUNNING in self.states

    def waiting(self) -> list[int]:
        """Runs for which all is there, in order, however many run."""
        numbers = [i for i, state in enumerate(self.states) if state is State.WAITING]
        return [i for i in numbers if (p := self._parents[i]) is None or self.states[p] is State.DONE]

    def startable(self) -> list[int]:
        """Of those as many as there is room for."""
        return self.waiting()[: max(0, self._at_once - self.states.count(State.RUNNING))]

    def mark(self, run: int, state: State) -> None:
        """What became of a run; those that start from a failed one are skipped."""
        self.states[run] = state
        if state in (State.FAILED, State.SKIPPED):
            for child, parent in enumerate(self._parents):
                if parent == run:
                    self.mark(child, State.SKIPPED)

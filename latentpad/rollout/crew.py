"""What a supervisor of rollout workers and those who run them say to each other, and what it promises to its caller."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable


class PoolLost(MachineError):  # noqa: N818 (says what happened)
    """No more rollouts can come: the cluster is gone, or workers die faster than they may. One line. Exit code 3."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a crew tells.

    Attributes:
        kind: `ready` (with who it is), `alive` (answer to a ping), `done` (with the reply), `lost` (the worker is),
            `failed` (the job raised in it), `refused` (it can never work: the reply is the line to say), `resend` (what
            was sent with the job is lost), `wake`.
        worker: number of the worker's life; every life has a new one.
        reply: what came back, or why it did not.
    """

    kind: Literal["ready", "alive", "done", "lost", "failed", "refused", "resend", "wake"]
    worker: int = -1
    reply: Any = None


class Crew(Protocol):
    """The workers, and messages to them. No call waits; what comes of it is put into `events`."""

    events: queue.SimpleQueue[Event]

    def start(self, worker: int) -> None:
        """Begin a worker's life; `ready`, `refused` or `lost` follows."""
        ...

    def send(self, worker: int, job: Any) -> None:
        """Give it a job; `done`, `failed`, `resend`, `refused` or `lost` follows."""
        ...

    def ping(self, worker: int) -> None:
        """Ask for a sign of life, also while it works; `alive` follows."""
        ...

    def kill(self, worker: int) -> None:
        """End its life for good, even if it hangs."""
        ...

    def renew(self, job: Any) -> None:
        """Send anew, from now on, what was lost on the way with a job."""
        ...

    def trouble(self) -> str | None:
        """Why no worker can come any more, or None. May take seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker is given up. Seconds; `restarts` an hour."""

    request_seconds: float
    silence_seconds: float
    start_seconds: float
    restarts: int


@dataclass
class Ticket:
    """Jobs that were handed in together, and what came of them.

    Attributes:
        reissued: how many were given out again because their worker was lost.
        doubled: how many were also given to a second worker because the first was slow.
    """

    size: int
    check: Callable[[Any, int], Any]
    replies: dict[int, Any] = field(default_factory=dict)
    reissued: int = 0
    doubled: int = 0
    error: Exception | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> list[Any]:
        """All replies, in the order of the jobs. Raises what ended the pool."""
        while not self._ended.wait(1.0):  # now and then, so that signals are heard
            pass
        if self.error is not None:
            raise self.error
        return [self.replies[i] for i in range(self.size)]

    @property
    def done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._ended.is_set()

    def end(self) -> None:
        """No more replies will come, or are wanted."""
        self._ended.set()


@dataclass(order=True)
class Task:
    """A job with its place in the queue."""

    order: tuple[int, int]
    job: Any = field(compare=False)
    ticket: Ticket = field(compare=False)
    failures: list[str] = field(default_factory=list, compare=False)
    workers: set[int] = field(default_factory=set, compare=False)

    @property
    def done(self) -> bool:
        """Whether somebody has answered it."""
        return self.order[1] in self.ticket.replies

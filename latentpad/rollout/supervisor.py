"""Who does which chunk, and what happens when a worker is dead, silent or slow. Knows nothing of Ray, nor of models.

A job is idempotent: it is made of prompts, seeds and weights, so it may be given out again, or twice. Whoever is first
counts. Jobs go out oldest first, so that long ones are never overtaken for ever.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from latentpad.rollout.crew import Event, PoolLost, Task, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latentpad.rollout.crew import Crew, Limits

# A job that kills, or fails in, so many workers is not given to another.
MOST_FAILURES = 4
# A job that takes this many times the median of the last ones, and so many seconds, is also given to an idle worker.
SLOW = 3.0
SLOW_SECONDS = 1.0
# Finished jobs that the median is of.
_REMEMBERED = 32
_HOUR = 3600.0


@dataclass
class _Life:
    """A worker, from its start to its end."""

    began: float
    sign: float
    asked: float = 0.0
    ready: bool = False
    task: Task | None = None
    since: float = 0.0


class Supervisor:
    """Keeps `size` workers at work until it is closed, in a thread of its own."""

    def __init__(
        self,
        crew: Crew,
        size: int,
        limits: Limits,
        note: Callable[[dict[str, Any]], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the workers; `note` hears what goes wrong and when it is well again."""
        self._crew, self._size, self._limits, self._note, self._clock = crew, size, limits, note, clock
        self._lives: dict[int, _Life] = {}
        self._waiting: list[Task] = []
        self._open: list[Ticket] = []
        self._handed_in: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._restarts: deque[float] = deque()
        self._tickets = self._next = 0
        self._lost_at: float | None = None
        self._failure: Exception | None = None
        self._closing = False
        self._looked = self._clock()
        for _ in range(size):
            self._begin()
        self._thread = threading.Thread(target=self._run, name="rollout supervisor", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Any], check: Callable[[Any, int], Any]) -> Ticket:
        """Hand in jobs; never waits.

        Args:
            jobs: what the crew's `send` takes.
            check: from a reply and the worker's number to what counts as the reply; what it raises ends the pool.
        """
        ticket = Ticket(len(jobs), check)
        if not jobs:
            ticket.end()
            return ticket
        self._tickets += 1
        self._handed_in.put([Task((self._tickets, i), job, ticket) for i, job in enumerate(jobs)])
        self._crew.events.put(Event("wake"))
        return ticket

    def close(self) -> None:
        """End all workers."""
        self._closing = True
        self._crew.events.put(Event("wake"))
        self._thread.join(timeout=30)
        for worker in list(self._lives):
            self._crew.kill(worker)
        self._lives.clear()

    def _run(self) -> None:
        pause = min(1.0, self._limits.silence_seconds / 6)
        while not self._closing:
            events = self._heard(pause)
            while not self._handed_in.empty():
                for task in self._handed_in.get():
                    heapq.heappush(self._waiting, task)
                self._open = [*(t for t in self._open if not t.done), task.ticket]
            try:
                if self._failure is not None:
                    raise self._failure
                for event in events:
                    self._hear(event)
                self._look_after()
                self._give_out()
            except Exception as error:  # noqa: BLE001 (whatever it is, those who wait must hear of it)
                self._fail(error)

    def _heard(self, pause: float) -> list[Event]:
        """All that was told: where this thread came late, signs of life that are there must not be overlooked."""
        events: list[Event] = []
        with suppress(queue.Empty):
            events.append(self._crew.events.get(timeout=pause))
            while True:
                events.append(self._crew.events.get_nowait())
        return events

    def _hear(self, event: Event) -> None:
        life = self._lives.get(event.worker)
        if life is None:  # of a life that has ended, or no worker's
            return
        life.sign = self._clock()
        if event.kind == "ready":
            life.ready = True
            self._note({"event": "ready", "worker": event.worker, **event.reply})
            if self._lost_at is not None and all(other.ready for other in self._lives.values()):
                self._tell("recovered", event.worker, seconds=round(self._clock() - self._lost_at, 2))
                self._lost_at = None
        elif event.kind == "done":
            self._finish(event.worker, life, event.reply)
        elif event.kind in ("failed", "resend") and life.task is not None:
            task, life.task = life.task, None
            if event.kind == "resend":
                self._crew.renew(task.job)
            self._tell(event.kind, event.worker, why=str(event.reply), chunk=task.order[1])
            self._again(task, event.worker, str(event.reply))
        elif event.kind == "refused":
            raise PoolLost(str(event.reply))
        elif event.kind == "lost":
            self._end(event.worker, str(event.reply))

    def _finish(self, worker: int, life: _Life, reply: Any) -> None:
        task, life.task = life.task, None
        if task is None:
            return
        self._durations.append(self._clock() - life.since)
        task.workers.discard(worker)
        if task.done or task.ticket.done:
            return
        task.ticket.replies[task.order[1]] = task.ticket.check(reply, worker)
        if len(task.ticket.replies) == task.ticket.size:
            task.ticket.end()

    def _look_after(self) -> None:
        """Pings, and who has been silent or at one thing for too long."""
        now, limits = self._clock(), self._limits
        for worker, life in list(self._lives.items()):
            if not life.ready:
                if now - life.began > limits.start_seconds:
                    self._end(worker, f"did not start within {limits.start_seconds:g} s (is there room for it?)")
            elif now - life.sign > limits.silence_seconds:
                self._end(worker, f"gave no sign of life for {limits.silence_seconds:g} s")
            elif life.task is not None and now - life.since > limits.request_seconds:
                self._end(worker, f"did not answer within {limits.request_seconds:g} s")
            elif now - life.asked > limits.silence_seconds / 4:
                life.asked = now
                self._crew.ping(worker)
        if now - self._looked > limits.silence_seconds / 4:
            self._looked = now
            if (trouble := self._crew.trouble()) is not None:
                raise PoolLost(trouble)

    def _give_out(self) -> None:
        idle = [worker for worker, life in self._lives.items() if life.ready and life.task is None]
        while idle:
            task = self._next_task()
            if task is None:
                return
            worker = idle.pop(0)
            life = self._lives[worker]
            life.task, life.since = task, self._clock()
            task.workers.add(worker)
            self._crew.send(worker, task.job)

    def _next_task(self) -> Task | None:
        """The oldest that nobody is at; or, where there is none, the oldest that takes much longer than usual."""
        while self._waiting:
            task = heapq.heappop(self._waiting)
            if not task.done and not task.ticket.done:
                return task
        if len(self._durations) < 3:
            return None
        now, limit = self._clock(), max(SLOW_SECONDS, SLOW * median(self._durations))
        late = [
            life.task
            for life in self._lives.values()
            if life.task is not None and _alone_with(life.task) and now - life.since > limit
        ]
        if not late:
            return None
        task = min(late)
        task.ticket.doubled += 1
        self._tell("doubled", next(iter(task.workers)), chunk=task.order[1])
        return task

    def _begin(self) -> None:
        now = self._clock()
        self._lives[self._next] = _Life(now, now)
        self._crew.start(self._next)
        self._next += 1

    def _end(self, worker: int, why: str) -> None:
        """A worker is given up: its job goes to others, and another worker takes its place."""
        life = self._lives.pop(worker)
        now = self._clock()
        self._lost_at = self._lost_at or now
        self._crew.kill(worker)
        self._tell("lost", worker, why=why, chunk=None if life.task is None else life.task.order[1])
        if life.task is not None:
            self._again(life.task, worker, why)
        self._restarts.append(now)
        while now - self._restarts[0] > _HOUR:
            self._restarts.popleft()
        if (trouble := self._crew.trouble()) is not None:
            raise PoolLost(trouble)
        if len(self._restarts) > self._limits.restarts:
            raise PoolLost(
                f"{len(self._restarts)} rollout workers were lost within an hour (rollout.ray.restarts is "
                f"{self._limits.restarts}), the last because it {why}"
            )
        self._begin()

    def _again(self, task: Task, worker: int, why: str) -> None:
        task.workers.discard(worker)
        if task.done or task.workers:
            return
        task.failures.append(why)
        if len(task.failures) >= MOST_FAILURES:
            raise PoolLost(f"chunk {task.order[1]} failed in {MOST_FAILURES} workers, the last time: {why}")
        task.ticket.reissued += 1
        heapq.heappush(self._waiting, task)

    def _fail(self, error: Exception) -> None:
        """Whoever waits, or comes later, hears of it."""
        self._failure = error
        self._waiting.clear()
        for ticket in self._open:
            if not ticket.done:
                ticket.error = error
                ticket.end()
        self._open.clear()

    def _tell(self, event: str, worker: int, **more: Any) -> None:
        self._note({"event": event, "worker": worker, **more})


def _alone_with(task: Task) -> bool:
    """Whether one worker is at a job that is still wanted."""
    return len(task.workers) == 1 and not task.done and not task.ticket.done

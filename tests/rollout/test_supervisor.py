"""Workers that die, hang, are slow or lose what they were sent: every job is answered once, and in order."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from latentpad.rollout.crew import Event, Limits, PoolLost
from latentpad.rollout.supervisor import MOST_FAILURES, Supervisor

LIMITS = Limits(request_seconds=5.0, silence_seconds=2.0, start_seconds=5.0, restarts=1000)
QUICK = Limits(request_seconds=0.4, silence_seconds=0.2, start_seconds=0.4, restarts=1000)


class FakeCrew:
    """Each job is its own answer, squared; `behave` says what happens to it instead."""

    def __init__(self, behave: Callable[[int, int], str] = lambda worker, job: "done", seconds: float = 0.0) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.behave, self.seconds = behave, seconds
        self.started: list[int] = []
        self.killed: list[int] = []
        self.sent: list[tuple[int, int]] = []
        self.renewed: list[int] = []
        self.starts = True
        self.gone: str | None = None
        self.dumb: set[int] = set()  # give no sign of life

    def start(self, worker: int) -> None:
        self.started.append(worker)
        if self.starts:
            self.events.put(Event("ready", worker, {}))

    def send(self, worker: int, job: int) -> None:
        self.sent.append((worker, job))
        kind = self.behave(worker, job)
        if kind == "hang":
            return
        if kind == "dumb":
            self.dumb.add(worker)
            return
        event = Event("done", worker, job * job) if kind == "done" else Event(kind, worker, f"{kind} at {job}")  # type: ignore[arg-type]
        threading.Timer(self.seconds, self.events.put, [event]).start()

    def ping(self, worker: int) -> None:
        if worker not in self.dumb:
            self.events.put(Event("alive", worker))

    def kill(self, worker: int) -> None:
        self.killed.append(worker)

    def renew(self, job: int) -> None:
        self.renewed.append(job)

    def trouble(self) -> str | None:
        return self.gone


def keep(reply: Any, _worker: int) -> Any:
    return reply


def supervise(
    crew: FakeCrew, jobs: list[int], *, size: int = 2, limits: Limits = LIMITS
) -> tuple[list[int], list[dict[str, Any]]]:
    notes: list[dict[str, Any]] = []
    supervisor = Supervisor(crew, size, limits, notes.append)
    try:
        return supervisor.submit(jobs, keep).wait(), notes
    finally:
        supervisor.close()


def test_every_job_is_answered_in_order_and_every_worker_is_ended() -> None:
    crew = FakeCrew()
    assert supervise(crew, list(range(50)))[0] == [i * i for i in range(50)]
    assert Counter(job for _, job in crew.sent) == Counter(range(50))
    assert sorted(crew.killed) == crew.started == [0, 1]


def test_nothing_asked_is_answered_at_once() -> None:
    assert supervise(FakeCrew(), [])[0] == []


@pytest.mark.parametrize("seed", range(30))
def test_whatever_goes_wrong_every_job_is_answered(seed: int) -> None:
    rng, failures = Random(seed), Counter[int]()

    def behave(worker: int, job: int) -> str:
        if failures[job] < MOST_FAILURES - 1 and rng.random() < 0.3:
            failures[job] += 1
            return rng.choice(["lost", "failed", "resend"])
        return "done"

    crew = FakeCrew(behave, seconds=0.0005)
    found, notes = supervise(crew, list(range(40)), size=rng.randrange(1, 5))
    assert found == [i * i for i in range(40)]
    assert failures
    assert sum(note["event"] in ("lost", "failed", "resend") for note in notes) == failures.total()
    assert len(crew.started) > len({worker for worker, _ in crew.sent}) - 1


def test_a_lost_worker_is_replaced_its_job_goes_to_another_and_recovery_is_told() -> None:
    crew = FakeCrew(lambda worker, job: "lost" if worker == 0 else "done")
    supervisor = Supervisor(crew, 2, LIMITS, (notes := []).append)
    ticket = supervisor.submit(list(range(6)), keep)
    assert ticket.wait() == [i * i for i in range(6)]
    supervisor.close()
    assert ticket.reissued == 1
    assert crew.started == [0, 1, 2]
    assert [n["event"] for n in notes if n["event"] != "ready"][:2] == ["lost", "recovered"]


@pytest.mark.parametrize(("kind", "why"), [("dumb", "gave no sign of life"), ("hang", "did not answer within")])
def test_a_worker_that_hangs_is_given_up(kind: str, why: str) -> None:
    crew = FakeCrew(lambda worker, job: kind if worker == 0 else "done")
    found, notes = supervise(crew, list(range(6)), limits=QUICK)
    assert found == [i * i for i in range(6)]
    [lost] = [note for note in notes if note["event"] == "lost"]
    assert lost["worker"] == 0
    assert why in lost["why"]
    assert 0 in crew.killed


def test_a_worker_that_never_starts_is_given_up() -> None:
    crew = FakeCrew()
    crew.starts = False
    supervisor = Supervisor(crew, 1, QUICK)
    ticket = supervisor.submit([3], keep)
    deadline = time.monotonic() + 5
    while len(crew.started) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    crew.starts = True
    assert ticket.wait() == [9]
    supervisor.close()


def test_what_was_lost_on_the_way_is_sent_anew() -> None:
    first: list[int] = []

    def behave(_worker: int, job: int) -> str:
        if job in first:
            return "done"
        first.append(job)
        return "resend"

    crew = FakeCrew(behave)
    assert supervise(crew, [1, 2])[0] == [1, 4]
    assert sorted(crew.renewed) == [1, 2]
    assert crew.started == [0, 1]


def test_a_slow_worker_is_doubled_and_the_first_answer_counts() -> None:
    notes: list[dict[str, Any]] = []
    crew = FakeCrew(lambda worker, job: "hang" if worker == 0 and job == 5 else "done")
    supervisor = Supervisor(crew, 2, LIMITS, notes.append)
    supervisor.submit(list(range(5)), keep).wait()
    while True:  # until worker 0 has it: the other may be quicker
        ticket = supervisor.submit([5], keep)
        assert ticket.wait() == [25]
        if ticket.doubled:
            break
    assert ticket.doubled == 1
    assert "lost" not in {note["event"] for note in notes}
    crew.events.put(Event("done", 0, "late"))
    assert supervisor.submit([6, 7], keep).wait() == [36, 49]
    supervisor.close()


def test_jobs_that_were_handed_in_first_are_given_out_first() -> None:
    crew = FakeCrew()
    crew.starts = False
    supervisor = Supervisor(crew, 1, LIMITS)
    first, second = supervisor.submit([3, 1, 2], keep), supervisor.submit([5, 4], keep)
    crew.events.put(Event("ready", 0, {}))
    assert (first.wait(), second.wait()) == ([9, 1, 4], [25, 16])
    supervisor.close()
    assert [job for _, job in crew.sent] == [3, 1, 2, 5, 4]


def test_a_job_that_fails_everywhere_ends_the_pool_and_says_so() -> None:
    crew = FakeCrew(lambda worker, job: "failed" if job == 7 else "done")
    with pytest.raises(PoolLost, match=f"chunk 1 failed in {MOST_FAILURES} workers, the last time: failed at 7"):
        supervise(crew, [1, 7, 2])
    assert Counter(job for _, job in crew.sent)[7] == MOST_FAILURES


def test_workers_that_die_too_often_end_the_pool() -> None:
    limits = Limits(5, 2, 5, restarts=2)
    rng = Random(0)
    with pytest.raises(PoolLost, match="3 rollout workers were lost within an hour"):
        supervise(
            FakeCrew(lambda worker, job: "lost" if rng.random() < 0.9 else "done"), list(range(50)), limits=limits
        )


def test_a_worker_that_can_never_work_ends_the_pool_with_its_line() -> None:
    with pytest.raises(PoolLost, match="refused at 1"):
        supervise(FakeCrew(lambda worker, job: "refused"), [1])


def test_where_the_head_is_gone_the_pool_ends_at_once() -> None:
    crew = FakeCrew(lambda worker, job: "hang")
    supervisor = Supervisor(crew, 2, QUICK)
    ticket = supervisor.submit([1, 2], keep)
    crew.gone = "the head is gone"
    with pytest.raises(PoolLost, match="the head is gone"):
        ticket.wait()
    with pytest.raises(PoolLost, match="the head is gone"):  # later tickets hear it too
        supervisor.submit([3], keep).wait()
    supervisor.close()


def test_what_a_check_raises_reaches_the_one_who_waits() -> None:
    def refuse(reply: int, worker: int) -> int:
        raise ValueError(f"{reply} of worker {worker}")

    supervisor = Supervisor(FakeCrew(), 1, LIMITS)
    with pytest.raises(ValueError, match="9 of worker 0"):
        supervisor.submit([3], refuse).wait()
    supervisor.close()


def test_what_was_dropped_is_not_given_out_any_more() -> None:
    crew = FakeCrew()
    crew.starts = False
    supervisor = Supervisor(crew, 1, LIMITS)
    dropped, wanted = supervisor.submit([1, 2], keep), supervisor.submit([3], keep)
    dropped.end()
    crew.events.put(Event("ready", 0, {}))
    assert wanted.wait() == [9]
    supervisor.close()
    assert [job for _, job in crew.sent] == [3]

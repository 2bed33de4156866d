"""Worker processes: budgets that hold, crashes that stay there, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from reward.worker import CheckCrashed, CheckRaised, CheckTooLong, WorkerFailed, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = "tests.reward.worker_functions"


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(2)
    yield made
    made.close()


def children() -> list[int]:
    """Process ids of our children, zombies too."""
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:  # noqa: PTH123
        return [int(word) for word in file.read().split()]


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_function_is_called_elsewhere_and_the_worker_kept(pool: WorkerPool) -> None:
    assert pool.call("math:gcd", 12, 18, cpu_seconds=5) == 6
    first = pool.call("os:getpid", cpu_seconds=5)
    assert first == pool.call("os:getpid", cpu_seconds=5) != os.getpid()


@pytest.mark.parametrize("name", ["spin", "spin_in_c", "spin_deaf"])
def test_a_call_that_uses_up_its_processor_time_is_ended_once(pool: WorkerPool, name: str) -> None:
    pool.call("math:gcd", 1, 1, cpu_seconds=5)
    start = time.monotonic()
    with pytest.raises(CheckTooLong, match=r"^the check did not finish in 0\.3 s of processor time$"):
        pool.call(f"{HERE}:{name}", cpu_seconds=0.3)
    assert time.monotonic() - start < 30
    assert pool.call("math:gcd", 12, 18, cpu_seconds=5) == 6


@pytest.mark.parametrize("path", ["os:abort", f"{HERE}:leave", f"{HERE}:out_of_memory"])
def test_a_call_that_kills_its_worker_twice_is_to_blame(pool: WorkerPool, path: str) -> None:
    with pytest.raises(CheckCrashed, match=r"^the check crashed twice: it ended with exit code"):
        pool.call(path, cpu_seconds=5)
    assert pool.call("math:gcd", 12, 18, cpu_seconds=5) == 6


def test_a_worker_that_died_of_something_else_is_replaced_and_the_call_made_again(pool: WorkerPool) -> None:
    victim = pool.call("os:getpid", cpu_seconds=5)
    os.kill(victim, signal.SIGKILL)
    assert pool.call("math:gcd", 12, 18, cpu_seconds=5) == 6


def test_silence_without_work_is_the_machines_fault(pool: WorkerPool) -> None:
    with pytest.raises(WorkerFailed, match="two workers did not answer"):
        pool.call("time:sleep", 60, cpu_seconds=0.1)


def test_an_exception_comes_back_in_one_line(pool: WorkerPool) -> None:
    with pytest.raises(CheckRaised, match=r"^ValueError: math domain error$"):
        pool.call("math:sqrt", -1, cpu_seconds=5)
    with pytest.raises(CheckRaised, match=r"^TypeError: Object of type set is not JSON serializable$"):
        pool.call("builtins:set", cpu_seconds=5)


@pytest.mark.parametrize("path", ["nosuch:f", "math:nosuch", "math"])
def test_what_cannot_be_loaded_is_the_machines_fault(pool: WorkerPool, path: str) -> None:
    with pytest.raises(WorkerFailed, match=rf"^{path} cannot be loaded: "):
        pool.call(path, cpu_seconds=5)


def test_a_worker_has_a_clean_environment_and_no_streams(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    names = set(pool.call(f"{HERE}:environment", cpu_seconds=5))
    assert names <= {
        "PYTHONPATH",
        "PATH",
        "LC_ALL",
        "PYTHONHASHSEED",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
    }
    assert pool.call(f"{HERE}:noise", cpu_seconds=5) == ""
    assert pool.call("math:gcd", 12, 18, cpu_seconds=5) == 6


def test_threads_share_the_workers_and_results_are_not_mixed_up(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: pool.call("math:factorial", n % 50, cpu_seconds=5), range(400)))
        workers = set(threads.map(lambda _: pool.call("os:getpid", cpu_seconds=5), range(50)))
    assert found == [__import__("math").factorial(n % 50) for n in range(400)]
    assert len(workers) <= 2


def test_large_arguments_and_results_pass(pool: WorkerPool) -> None:
    assert pool.call("builtins:sorted", list(range(200_000, 0, -1)), cpu_seconds=5)[:2] == [1, 2]


def test_closing_leaves_no_process_and_a_later_call_starts_anew(pool: WorkerPool) -> None:
    before = set(children())
    worker = pool.call("os:getpid", cpu_seconds=5)
    with pytest.raises(CheckTooLong):
        pool.call(f"{HERE}:spin", cpu_seconds=0.1)
    pool.close()
    assert set(children()) <= before
    assert gone(worker)
    assert pool.call("math:gcd", 12, 18, cpu_seconds=5) == 6


def test_a_forked_child_has_workers_of_its_own(pool: WorkerPool) -> None:
    ours = pool.call("os:getpid", cpu_seconds=5)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            theirs = pool.call("os:getpid", cpu_seconds=5)
            pool.close()
            os.write(writing, str(theirs).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    theirs = int(os.read(reading, 100))
    os.close(reading)
    assert theirs not in (ours, child, os.getpid())
    assert gone(theirs)
    assert pool.call("os:getpid", cpu_seconds=5) == ours


@pytest.mark.parametrize(("busy", "seconds"), [("idle", 30), ("spin_in_c", 60)])
def test_workers_die_with_their_parent_even_if_it_is_killed(tmp_path: Path, busy: str, seconds: float) -> None:
    code = (
        "import sys, threading, time\n"
        "from reward.worker import shared_workers\n"
        "pool = shared_workers()\n"
        "print(pool.call('os:getpid', cpu_seconds=5), flush=True)\n"
        f"call = lambda: pool.call('{HERE}:{busy}', cpu_seconds=2)\n"
        "threading.Thread(target=call, daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(worker, seconds)


def test_an_interpreter_that_ends_takes_its_workers_along() -> None:
    code = "from reward.worker import shared_workers; print(shared_workers().call('os:getpid', cpu_seconds=5))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stderr == ""
    assert gone(int(out.stdout))

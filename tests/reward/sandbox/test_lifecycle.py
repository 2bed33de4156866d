"""Processes and descriptors: none too many, none left behind, none shared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward.sandbox import Limits, Run, Sandbox, Settings, Status, configure, shared
from reward.sandbox.local import LocalBackend

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]


def processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = (int(fields[1]), int(fields[3]))
    return found


def children_of(pid: int) -> set[int]:
    return {child for child, (parent, _) in processes().items() if parent == pid}


def programs_of(pid: int) -> set[int]:
    """Children that are sessions of their own: not those that a zygote tries things on at its start."""
    return {child for child, (parent, session) in processes().items() if parent == pid and session == child}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.01)
    return False


def zygotes(sandbox: Sandbox) -> list[int]:
    assert isinstance(sandbox._backend, LocalBackend)
    return [slot.pid for slot in sandbox._backend._all if slot.pid]


def python(code: str, *, status: int = 0) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def test_closing_leaves_no_process_and_no_descriptor(sandbox: Sandbox) -> None:
    sandbox.run("")
    before, fds = children_of(os.getpid()), descriptors()
    with Sandbox(settings=Settings(slots=2), cache_size=0) as other:
        other.run_many([Run("import time; time.sleep(0.05)")] * 4)
        grown = descriptors()
        assert len(children_of(os.getpid()) - before) == 2
        other.run_many([Run("print(1)"), Run("1/0"), Run("while 1: print(1)"), Run("import os; os.abort()")] * 3)
        assert descriptors() == grown
        pids = zygotes(other)
    assert children_of(os.getpid()) == before
    assert descriptors() == fds
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(RuntimeError, match="the sandbox is closed"):
        other.run("")
    other.close()


def test_closing_ends_runs_in_progress() -> None:
    sandbox = Sandbox(settings=Settings(slots=1), cache_size=0)
    sandbox.start()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sandbox.run, "import time; time.sleep(15)")
        assert soon(lambda: bool(zygotes(sandbox)) and bool(programs_of(zygotes(sandbox)[0])))
        running = programs_of(zygotes(sandbox)[0])
        sandbox.close()
        assert future.result(10).status is Status.SANDBOX_ERROR
    assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running))


def test_a_run_survives_the_death_of_its_zygote(sandbox: Sandbox) -> None:
    sandbox.run("")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sandbox.run, "import time; time.sleep(0.5); print('done')")
        assert soon(lambda: any(programs_of(pid) for pid in zygotes(sandbox)))
        (victim,) = (pid for pid in zygotes(sandbox) if programs_of(pid))
        orphans = programs_of(victim)
        os.kill(victim, signal.SIGKILL)
        result = future.result(20)
    assert (result.status, result.stdout) == (Status.OK, "done\n")
    assert victim not in zygotes(sandbox)
    assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))


def test_a_program_whose_zygote_dies_twice_is_killed(sandbox: Sandbox) -> None:
    sandbox.run("")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sandbox.run, "import time; time.sleep(5)")
        killed: set[int] = set()
        for _ in range(2):
            assert soon(lambda: any(programs_of(pid) for pid in zygotes(sandbox) if pid not in killed))
            (victim,) = (pid for pid in zygotes(sandbox) if pid not in killed and programs_of(pid))
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        assert future.result(20).status is Status.KILLED
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_program_that_kills_itself_does_not_cost_a_zygote(sandbox: Sandbox) -> None:
    sandbox.run_many([Run("")] * 2)
    before = zygotes(sandbox)
    assert sandbox.run("import os; os.kill(os.getpid(), 9)").status is Status.KILLED
    assert zygotes(sandbox) == before


def test_a_stopped_zygote_is_given_up(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward.sandbox.slot.GRACE_SECONDS", 0.2)
    sandbox.run("")
    for pid in zygotes(sandbox):
        os.kill(pid, signal.SIGSTOP)
    result = sandbox.run("print(1)", limits=Limits(wall_seconds=2))
    assert (result.status, result.stdout) == (Status.OK, "1\n")
    for pid in zygotes(sandbox):
        os.kill(pid, signal.SIGCONT)


def test_an_interrupted_run_does_not_answer_the_next_one(sandbox: Sandbox) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run("import time; time.sleep(0.4); print('old')")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [sandbox.run("print('new')").stdout for _ in range(4)] == ["new\n"] * 4


def test_a_slot_gets_a_fresh_zygote_after_so_many_runs() -> None:
    with Sandbox(settings=Settings(slots=1, recycle_after=40), cache_size=0) as sandbox:
        seen = set()
        for _ in range(90):
            assert sandbox.run("print(1)").stdout == "1\n"
            seen.update(zygotes(sandbox))
    assert len(seen) == 3


def test_a_later_zygote_that_is_confined_less_runs_nothing() -> None:
    with Sandbox(settings=Settings(slots=1), cache_size=0) as sandbox:
        assert isinstance(sandbox._backend, LocalBackend)
        (slot,) = sandbox._backend._all
        slot.expected = {**slot.expected, "seccomp": "stronger"}
        slot.close()
        result = sandbox.run("print(1)")
    assert (result.status, result.stdout) == (Status.SANDBOX_ERROR, "")
    assert result.stderr == "a new zygote differs from the first in seccomp"


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    wrong = []

    def work(name: int) -> None:
        for turn in range(8):
            result = sandbox.run("a, b = input().split()\nprint(b, a)", f"{name} {turn}")
            if result.stdout != f"{turn} {name}\n":
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(zygotes(sandbox)) == 2


def in_fork(work: Callable[[], bool]) -> int:
    """The exit code of a forked child: 0 where `work` says yes."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_starts_its_own(sandbox: Sandbox) -> None:
    sandbox.run_many([Run("import time; time.sleep(0.05)")] * 2)
    ours = set(zygotes(sandbox))

    def work() -> bool:
        good = sandbox.run("print(2)").stdout == "2\n"
        good = good and not set(zygotes(sandbox)) & ours
        sandbox.close()
        return good and not children_of(os.getpid())

    assert in_fork(work) == 0
    assert set(zygotes(sandbox)) == ours
    assert sandbox.run("print(3)").stdout == "3\n"


def test_a_fork_in_the_middle_of_a_run_disturbs_nobody(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sandbox.run, "import time; time.sleep(0.3); print('parent')")
        time.sleep(0.1)
        assert in_fork(lambda: sandbox.run("print('child')").stdout == "child\n") == 0
        assert future.result(20).stdout == "parent\n"


def test_the_shared_sandbox_is_one_for_the_process_and_ends_with_it() -> None:
    code = (
        "import os\n"
        "from reward.sandbox import shared, configure, Settings\n"
        "configure(Settings(slots=1))\n"
        "assert shared() is shared()\n"
        "print(shared().run('print(6*7)').stdout, shared()._backend._all[0].pid)\n"
        "if not os.fork():\n"
        "    print(shared().run('print(43)').stdout, shared()._backend._all[0].pid, flush=True)\n"
        "    raise SystemExit\n"
        "os.wait()\n"
    )
    theirs, ours = sorted(python(code).split()[i : i + 2] for i in (0, 2))[::-1]
    assert (ours[0], theirs[0]) == ("42", "43")
    assert ours[1] != theirs[1]
    assert soon(lambda: not Path(f"/proc/{ours[1]}").exists() and not Path(f"/proc/{theirs[1]}").exists())


def test_an_owner_that_is_killed_leaves_nothing() -> None:
    code = (
        "import os\n"
        "from reward.sandbox import shared, configure, Settings\n"
        "configure(Settings(slots=1))\n"
        "shared().run('')\n"
        "print(shared()._backend._all[0].pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    pid = python(code, status=-9).strip()
    assert soon(lambda: not Path(f"/proc/{pid}").exists())


def test_other_settings_replace_the_shared_sandbox() -> None:
    try:
        configure(Settings(slots=1))
        first = shared()
        configure(Settings(slots=1))
        assert shared() is first
        configure(Settings(slots=2))
        assert shared() is not first
        with pytest.raises(RuntimeError, match="closed"):
            first.run("")
    finally:
        configure(Settings())


def test_one_that_is_dropped_ends_without_a_warning() -> None:
    sandbox = Sandbox(settings=Settings(slots=1))
    sandbox.start()
    (pid,) = zygotes(sandbox)
    del sandbox
    assert soon(lambda: not Path(f"/proc/{pid}").exists())

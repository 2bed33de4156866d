"""`latentpad ablate --at-once 2` as a process, with all that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.training.worker import steps_logged

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600.0


class Command:
    """`latentpad ablate` in a folder of its own, by which all processes that it starts are known."""

    def __init__(self, home: Path, plan: Path, out: Path) -> None:
        home.mkdir(exist_ok=True)
        self.home, self.out = home, out
        arguments = ["ablate", str(plan), "--out", str(out), "--at-once", "2"]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "latentpad", *arguments],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def finish(self) -> tuple[int, list[str], list[str]]:
        """Exit code, and the lines of both outputs."""
        out, err = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, out.splitlines(), err.splitlines()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def processes(self) -> list[int]:
        """All that work in its folder: Ray's, the runs, the command."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.home:
                    found.append(int(entry.name))
        return found

    def run_of(self, folder: Path, *, step: int) -> int:
        """The process that trains in a run's folder, stopped in its tracks once it has logged a step."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, f"{folder} never came to step {step}"
            assert self._process.poll() is None, self._process.communicate()
            if steps_logged(folder) >= step and (holders := [p for p in self.processes() if holds(p, folder)]):
                os.kill(holders[0], signal.SIGSTOP)
                assert not (folder / "done.json").is_file(), "too late: make the run longer"
                return holders[0]
            time.sleep(0.002)


def holds(process: int, folder: Path) -> bool:
    """Whether it has the lock of a run's folder open, and is a run's own process."""
    with contextlib.suppress(OSError):
        if b"one_run" in Path(f"/proc/{process}/cmdline").read_bytes():
            return any(file.readlink() == folder / ".lock" for file in Path(f"/proc/{process}/fd").iterdir())
    return False


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until_gone(command: Command) -> None:
    deadline = time.monotonic() + 60
    while left := command.processes():
        assert time.monotonic() < deadline, [Path(f"/proc/{p}/cmdline").read_bytes()[:200] for p in left]
        time.sleep(0.1)

"""One run of an experiment in a process of its own (`python -m` this module), and the actor that starts it on a node.

The process reads its job from its standard input, and dies when that closes: nobody is left who would hear of it.
Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentpad.launch.passed_on import forget_launcher
from latentpad.recipe.errors import Diverged, MachineError, RecipeError, Stopped
from reward import BadOptions, GoldAnswerError, MissingPackage
from reward.sandbox import SandboxUnavailable

DONE, BUG, BAD_INPUT, CANNOT, STOPPED = 0, 1, 2, 3, 130
EXPECTED = (
    *(RecipeError, GoldAnswerError, BadOptions, Diverged),
    *(MachineError, MissingPackage, SandboxUnavailable),
    Stopped,
)
"""How work ends other than well; everything else is a bug."""

LOG = "log.txt"
# Seconds for the process of a lost node to let go of the folder.
_LETTING_GO = 120.0


def exit_code(error: Exception) -> int:
    """The exit code for one of `EXPECTED`."""
    if isinstance(error, Stopped):
        return STOPPED
    return CANNOT if isinstance(error, MachineError | MissingPackage | SandboxUnavailable) else BAD_INPUT


@dataclass(frozen=True, slots=True)
class Job:
    """A run, as it travels to a node.

    Attributes:
        recipe: complete, the path of its model absolute.
        parent_key: stands for that path in the content key.
        folder: of the run.
        marker: a file that shows that the node sees the folder of the experiment.
        directory: to work in, for paths in the recipe that are relative.
        threads: that it computes with.
        hides_gpus: it has none, whatever the node has.
        address: of the cluster, for a run that joins it itself; None for a private one.
        again: it was started before and lost, and may hold the folder for a moment yet.
    """

    recipe: dict[str, Any]
    parent_key: str
    folder: str
    marker: str
    directory: str
    threads: str
    hides_gpus: bool
    address: str | None
    again: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process of a run ended: its exit code (minus the signal that killed it), and its last words."""

    code: int
    line: str


class Runner:
    """A Ray actor: starts the process of one run, waits for it, and tells it to stop."""

    def __init__(self) -> None:
        forget_launcher()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def host(self) -> str:
        """Where this is; answered once the cluster had room."""
        return socket.gethostname()

    def run(self, job: Job) -> Ended:
        """Start the process and wait until it ends."""
        if not Path(job.marker).is_file():
            return Ended(CANNOT, unseen(self.host(), Path(job.marker).parent))
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("ab") as log:
            log.write(f"--- started on {self.host()}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n".encode())
            log.flush()
            begin = log.tell()
            with self._lock:
                if self._stopped:
                    return Ended(STOPPED, "")
                self._process = process = _start(job, log)
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it is dead already, and its end says of what
            code = process.wait()
        return Ended(code, _last_words(folder / LOG, begin, code))

    def stop(self) -> None:
        """Ask the run to leave a checkpoint and end."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()


def unseen(host: str, out: Path) -> str:
    """The line for a node that looks at another disk."""
    return f"{out}: node {host} sees other files there: use an --out on a file system that all nodes share"


def _start(job: Job, log: Any) -> subprocess.Popen[bytes]:
    environment = dict(os.environ) | {"OMP_NUM_THREADS": job.threads, "PYTHONUNBUFFERED": "1"}
    if job.hides_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if job.address is not None:
        environment["RAY_ADDRESS"] = job.address
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "latentpad.experiments.one_run"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        cwd=job.directory if Path(job.directory).is_dir() else Path(job.marker).parent,
        start_new_session=True,  # Ctrl-C in a terminal is for the one who started it all
    )


def _last_words(file: Path, begin: int, code: int) -> str:
    """Our own line if it ends with one, else the last that was written: of a traceback, the error."""
    with file.open("rb") as stream:
        stream.seek(begin)
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    ours = [line.removeprefix("latentpad: ") for line in lines if line.startswith("latentpad: ")]
    if code in (BAD_INPUT, CANNOT, STOPPED) and ours:
        return ours[-1]
    said = f": {lines[-1]}" if lines else ""
    return f"killed by {signal.Signals(-code).name}{said}" if code < 0 else f"exit code {code}{said}"


def main() -> int:
    """Do the job that standard input tells; the exit codes are those of the command line."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # Ray's processes block the first
    job = Job(**json.loads(_line_of_input()))
    threading.Thread(target=_die_with_the_parent, daemon=True, name="parent").start()
    try:
        from latentpad.experiments.run import run_recipe
        from latentpad.recipe.schema import Recipe

        folder = Path(job.folder)
        if job.again:
            _wait_until_free(folder)
        run_recipe(Recipe.model_validate(job.recipe), folder, parent_key=job.parent_key, say=_say)
    except EXPECTED as error:
        _say(f"latentpad: {' '.join(str(error).split())}")
        return exit_code(error)
    return DONE


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _line_of_input() -> bytes:
    """Read by hand: a thread that waits in a buffered reader cannot be left behind at the end."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            sys.exit(STOPPED)
        line += more
    return line


def _die_with_the_parent() -> None:
    """At once and with all processes of this group: the run may be started again elsewhere at any moment."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _wait_until_free(folder: Path) -> None:
    from latentpad.training.run_folder import locked

    deadline = time.monotonic() + _LETTING_GO
    while True:
        try:
            with locked(folder):
                return
        except RecipeError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())

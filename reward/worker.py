"""Processes that grade for us where a check can hang or crash: `shared_workers().call("module:function", *args)`.

The workers run *trusted* code on a model's text: they are no sandbox. Each is a fresh interpreter (never a fork of a
process with threads and GPUs), with a clean environment, no terminal, and a limit on memory. Arguments and results are
JSON. A call has a budget of processor time, which the kernel enforces even where Python code cannot be interrupted, so
that a verdict does not depend on how busy the machine is; wall time is a backstop.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_MESSAGE = 1 << 22
LOAD_SECONDS = 120.0
WALL_FACTOR = 30.0
MEMORY_BYTES = 2 << 30
CALLS_PER_WORKER = 5000  # libraries' caches grow
MAX_WORKERS = max(1, min(8, (os.cpu_count() or 2) - 1))


class CheckTooLong(RuntimeError):  # noqa: N818 (says what happened)
    """The call used up its processor time: the fault of what it was asked."""


class CheckCrashed(RuntimeError):  # noqa: N818
    """The call killed two workers in a row: the fault of what it was asked."""


class CheckRaised(RuntimeError):  # noqa: N818
    """The called function raised; the line is `Type: message`."""


class WorkerFailed(RuntimeError):  # noqa: N818
    """No worker came up, or two did not answer though their processor time was not used up: the machine's fault."""


class _Died(Exception):  # noqa: N818
    """The worker went away in the middle of a call."""


class _NotUp(Exception):  # noqa: N818
    """The worker went away, or was silent, before the call."""


class _Silent(Exception):  # noqa: N818
    """The worker did not answer in wall time."""


class _Worker:
    """One process, seen from the one that asks. Not for two threads at once."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        env = {"PYTHONPATH": path, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
        env |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        self.calls = 0
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from reward.worker import serve; serve()"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )
        self._loaded: set[str] = set()

    def call(self, path: str, args: tuple[Any, ...], cpu_seconds: float) -> dict[str, Any]:
        """The reply. Raises `CheckTooLong`, `WorkerFailed`, `_NotUp`, `_Died` or `_Silent`; of no use after that."""
        if path not in self._loaded:
            try:
                reply = self._ask({"path": path, "wall": LOAD_SECONDS})
            except (_Died, _Silent) as error:
                raise _NotUp(f"no worker came up for {path}: {error}") from error
            if "error" in reply:
                raise WorkerFailed(f"{path} cannot be loaded: {reply['error']}")
            self._loaded.add(path)
        self.calls += 1
        return self._ask({"path": path, "args": args, "cpu": cpu_seconds, "wall": WALL_FACTOR * cpu_seconds})

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(message).encode()
        deadline = time.monotonic() + message["wall"]
        try:
            self._write(len(data).to_bytes(4, "big") + data)
            size = int.from_bytes(self._read(4, deadline), "big")
            reply: dict[str, Any] = json.loads(self._read(size, deadline))
        except (OSError, EOFError) as error:
            self.close()
            if self.process.returncode == -signal.SIGPROF:
                raise CheckTooLong(f"the check did not finish in {message['cpu']:g} s of processor time") from error
            raise _Died(f"it ended with exit code {self.process.returncode}") from error
        return reply

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def _read(self, size: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        data = b""
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        while len(data) < size:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _Silent("it did not answer")
            part = self.process.stdout.read(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        """Kill the process and reap it."""
        self.release()
        self.process.kill()
        self.process.wait()

    def release(self) -> None:
        """Close our ends of the pipes; an idle worker then exits by itself."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class WorkerPool:
    """Up to `size` workers, started when they are needed and kept. Safe for threads, and after a fork."""

    def __init__(self, size: int = MAX_WORKERS) -> None:
        self._size = size
        self._reset()
        _POOLS.add(self)

    def _reset(self) -> None:
        self._free: list[_Worker] = []
        self._slots = threading.Semaphore(self._size)
        self._alone = threading.Lock()

    def call(self, path: str, *args: Any, cpu_seconds: float) -> Any:
        """What the function at `path` (`module:function`) returns for these arguments.

        A call that kills its worker, or is silent for ten times its processor time, is made once more on a fresh
        worker, one such call at a time, so that a busy machine is not taken for a bad answer.

        Raises:
            CheckTooLong, CheckCrashed, CheckRaised: through the arguments' fault, if the function itself is sound.
            WorkerFailed: through the machine's.
        """
        try:
            with self._slots:
                reply = self._once(path, args, cpu_seconds)
        except (_NotUp, _Died, _Silent):
            with self._alone, self._slots:
                reply = self._again(path, args, cpu_seconds)
        if "error" in reply:
            raise CheckRaised(reply["error"])
        return reply["result"]

    def _again(self, path: str, args: tuple[Any, ...], cpu_seconds: float) -> dict[str, Any]:
        try:
            return self._once(path, args, cpu_seconds, fresh=True)
        except _Died as error:
            raise CheckCrashed(f"the check crashed twice: {error}") from error
        except _NotUp as error:
            raise WorkerFailed(str(error)) from error
        except _Silent as error:
            raise WorkerFailed("two workers did not answer; is the machine overloaded?") from error

    def _once(self, path: str, args: tuple[Any, ...], cpu_seconds: float, *, fresh: bool = False) -> dict[str, Any]:
        worker = _Worker() if fresh else self._idle() or _Worker()
        try:
            reply = worker.call(path, args, cpu_seconds)
        except BaseException:
            worker.close()
            raise
        if worker.calls < CALLS_PER_WORKER:
            self._free.append(worker)
        else:
            worker.close()
        return reply

    def close(self) -> None:
        """End the idle workers; a later call starts new ones."""
        while worker := self._idle():
            worker.close()

    def _idle(self) -> _Worker | None:
        try:
            return self._free.pop()
        except IndexError:  # another thread may have been faster
            return None

    def after_fork(self) -> None:
        """In a child: the workers belong to the parent."""
        for worker in self._free:
            worker.release()
            worker.process.returncode = 0  # not ours to wait for
        self._reset()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()
_SHARED = WorkerPool()


def shared_workers() -> WorkerPool:
    """The pool of this process."""
    return _SHARED


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool.after_fork()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_SHARED.close)


def serve() -> None:
    """The life of a worker: load functions and call them, until the one who asks is gone.

    Default actions of SIGPROF (processor time) and SIGALRM (wall time) end it in the middle of a call, whatever Python
    is doing, also when its parent has died meanwhile.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    while head := requests.read(4):
        message = json.loads(requests.read(int.from_bytes(head, "big")))
        signal.setitimer(signal.ITIMER_REAL, message["wall"] + 1)
        signal.setitimer(signal.ITIMER_PROF, message.get("cpu", 0))
        data = _reply(message)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(len(data).to_bytes(4, "big") + data)
        replies.flush()


def _reply(message: dict[str, Any]) -> bytes:
    """What the function returns, or the exception it raises in one line. Out of memory, the worker ends."""
    try:
        module, _, name = message["path"].partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return json.dumps({"result": function(*message["args"]) if "args" in message else None}).encode()
    except MemoryError:
        os._exit(1)
    except Exception as error:  # noqa: BLE001 (told to the one who asked)
        return json.dumps({"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}).encode()

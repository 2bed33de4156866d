"""The door: checks what goes in, looks into the cache, and hands runs to a backend."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from reward.sandbox.cache import ResultCache, key_of
from reward.sandbox.remote import RemoteBackend
from reward.sandbox.types import ExecutionResult, Limits, Run, SandboxUnavailable, Settings, Status, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from reward.sandbox.backend import Backend

_alive: weakref.WeakSet[Sandbox] = weakref.WeakSet()


class Sandbox:
    """Runs programs one by one or side by side; use it as a context manager, or let it start with the first run.

    Programs have the standard library, but no processes and no sockets, so neither has `asyncio.run`, which begins with
    a pair of them. They own their stdout and `result` alike and may write anything there; what they cannot do is see a
    right answer, or end as `ok` with two.

    Thread-safe. In a forked child it starts processes of its own. Nothing that says what a right answer is ever enters:
    compare the outputs outside.

    Args:
        limits: for all runs that bring none of their own.
        settings: how programs are confined.
        cache_size: how many results are kept; 0 for none.

    Raises:
        SandboxUnavailable: at start, where this machine cannot confine programs.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        settings: Settings | None = None,
        cache_size: int = 4096,
        _landlock: bool = True,
        _seccomp: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self.settings = settings or Settings()
        self._switches = {"landlock": _landlock, "seccomp": _seccomp}
        self._cache = ResultCache(cache_size)
        self._lock = threading.Lock()
        self._backend: Backend | None = None
        self._finalizer: weakref.finalize[[], Sandbox] | None = None
        self._closed = False
        _alive.add(self)

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start now rather than with the first run, to know whether it works."""
        self._started()

    def close(self) -> None:
        """End every process of the sandbox. Runs in progress return `sandbox_error`."""
        with self._lock:
            self._closed = True
            if self._finalizer:
                self._finalizer()
            self._finalizer = self._backend = None

    def _started(self) -> Backend:
        backend = self._backend
        if backend:
            return backend
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if not self._backend:
                self._backend = open_backend(self.settings, **self._switches)
                self._finalizer = weakref.finalize(self, self._backend.close)
            return self._backend

    @property
    def tier(self) -> Tier:
        """What stands between a program and the machine."""
        return self._started().tier

    def describe(self) -> list[str]:
        """Lines for people: the tier, why it is this one, and what programs cannot do in it."""
        return self._started().describe()

    def run(self, source: str, stdin: str = "", *, call: str = "", limits: Limits | None = None) -> ExecutionResult:
        """Run a program as `python program.py < stdin` would.

        Args:
            source: the program, as a model wrote it.
            stdin: its input.
            call: an expression that is evaluated after the program, among its globals. Its value comes back in
                `result`, on a channel apart from stdout; `values.decode` reads it. A program that exits has no result.
            limits: for this run.

        Raises:
            ValueError: if `stdin` or `call`, which are the data set's, are too long or no Unicode text.
        """
        limits = limits or self.limits
        given = _encoded("stdin", stdin, limits.max_stdin_bytes)
        expression = _encoded("call", call, limits.max_source_bytes)
        try:
            text = _encoded("source", source, limits.max_source_bytes)
        except ValueError as error:
            return ExecutionResult.not_run(Status.INVALID_SOURCE, str(error))
        backend = self._started()
        key = key_of(source, stdin, call, limits, f"{backend.tier} {backend.version}")
        result = self._cache.get(key)
        if result is None:
            result = backend.run(text, given, expression, limits)
            self._cache.put(key, result)
        return result

    def run_many(self, runs: Iterable[Run]) -> list[ExecutionResult]:
        """Run programs side by side, as many at once as there are slots; results in the order of the runs."""
        todo = list(runs)
        if not todo:
            return []
        with ThreadPoolExecutor(min(self._started().slots, len(todo)), "sandbox") as pool:
            return list(pool.map(self._run, todo))

    def _forget(self) -> None:
        """In a forked child: locks may be held by threads that are not here, and zygotes are the parent's."""
        self._lock = threading.Lock()
        self._cache.forget_lock()
        if self._backend:
            self._backend.forget()

    def _run(self, run: Run) -> ExecutionResult:
        return self.run(run.source, run.stdin, call=run.call, limits=run.limits)


def _encoded(name: str, text: str, cap: int) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not Unicode text: {error.reason} at {error.start}") from None
    if len(data) > cap:
        raise ValueError(f"{name} has {len(data)} bytes; at most {cap} are allowed")
    return data


def open_backend(settings: Settings, *, landlock: bool = True, seccomp: bool = True) -> Backend:
    """The backend that the settings ask for. Raises `SandboxUnavailable` where it does not work."""
    # Imported here: without a kernel for them there may not even be the modules they need.
    if settings.backend == "remote":
        return RemoteBackend(settings)
    if settings.backend == "bwrap":
        from reward.sandbox.bwrap import BwrapBackend

        return BwrapBackend(settings)
    try:
        from reward.sandbox.local import LocalBackend

        return LocalBackend(settings, landlock=landlock, seccomp=seccomp)
    except (SandboxUnavailable, ImportError) as error:
        if settings.backend == "auto" and settings.remote_url:
            return RemoteBackend(settings)
        if isinstance(error, ImportError):
            raise SandboxUnavailable(f"no sandbox on {sys.platform}: {error}; use Linux or set remote_url") from error
        raise


def _after_fork() -> None:
    for sandbox in list(_alive):
        sandbox._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""One sandbox for the whole process."""

from __future__ import annotations

import os
import threading

from reward.sandbox.sandbox import Sandbox
from reward.sandbox.types import Settings

_lock = threading.Lock()
_settings = Settings()
_sandbox: Sandbox | None = None


def configure(settings: Settings) -> None:
    """Say how the shared sandbox is to be; one that has started with other settings is closed."""
    global _settings, _sandbox
    with _lock:
        if settings != _settings and _sandbox:
            _sandbox.close()
            _sandbox = None
        _settings = settings


def shared() -> Sandbox:
    """The sandbox of this process, started when first asked for and closed at its end.

    Raises `SandboxUnavailable` where this machine cannot confine programs. A forked child gets its own.
    """
    global _sandbox
    with _lock:
        if not _sandbox:
            sandbox = Sandbox(settings=_settings)
            sandbox.start()
            _sandbox = sandbox
        return _sandbox


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

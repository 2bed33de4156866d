"""The process that programs are forked from: one run at a time, asked for over a socket.

It is a fresh interpreter, never a fork of its owner, and sources and inputs pass it by as file descriptors: a child
inherits nothing worth reading.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

from reward.sandbox.lockdown import MAX_FDS, CannotConfineError, Lockdown, confine, install_filter, prepare
from reward.sandbox.preload import CORE, HOST, WIDE, missing_modules, preload
from reward.sandbox.program import (
    fresh_interpreter,
    fresh_main,
    fresh_streams,
    look_like_a_script,
    pin_environment,
    run_program,
)

KILL = b"K"
_READY_FD, _SOURCE_FD, _RULES_FD = 4, 5, 6
_CPU_CLOCK = 2  # CPUCLOCK_SCHED: see clock_getcpuclockid(3)
_LONGEST_NAP = 1.0


def main() -> NoReturn:
    """Serve runs until the owner hangs up."""
    control = socket.socket(fileno=os.dup(0))
    _silence()
    try:
        lockdown = _boot(control)
    except (CannotConfineError, OSError, ImportError) as error:
        control.send(json.dumps({"error": f"{error}"}).encode())
        os._exit(1)
    while True:
        _take_turn(control, lockdown)


def _take_turn(control: socket.socket, lockdown: Lockdown) -> None:
    """One run. A function of its own, so that a child finds nothing of the run before in its frames."""
    message, descriptors, _, _ = socket.recv_fds(control, 65536, 16)
    if not message:
        os._exit(0)
    if message == KILL:  # of a run that had just ended
        return
    try:
        reply = _serve(control, lockdown, json.loads(message), descriptors)
    except OSError as error:
        reply = {"error": str(error)}
    control.send(json.dumps(reply).encode())


def _silence() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)


def _boot(control: socket.socket) -> Lockdown:
    options = json.loads(control.recv(1 << 20))
    python = ".".join(map(str, sys.version_info[:3]))
    pin_environment()
    _reset_signals()
    preload(HOST.split())
    _import_extras(options["extra_modules"], options["extra_path"])
    home = os.path.dirname(os.__file__)  # noqa: PTH120
    executable = sys.executable
    lockdown = prepare(use_landlock=options["landlock"], use_seccomp=options["seccomp"], uid_base=options["uid_base"])
    lazy = bool(lockdown.abi) and not options["wide"]
    preload((CORE if lazy else CORE + WIDE).split())
    missing = [] if lazy else missing_modules()
    look_like_a_script()
    _make_streams()
    for name in [name for name in sys.modules if name.partition(".")[0] == "reward"]:
        del sys.modules[name]
    hello = {
        "python": python,
        "implementation": sys.implementation.name,
        "executable": executable,
        "stdlib": home,
        "abi": lockdown.abi,
        "seccomp": bool(lockdown.program),
        "uid": lockdown.uid,
        "userns": lockdown.userns,
        "chroot": lockdown.chroot,
        "threads": lockdown.threads,
        "missing": missing,
    }
    control.send(json.dumps(hello).encode())
    gc.collect()
    gc.freeze()
    gc.disable()
    return lockdown


def _make_streams() -> None:
    """Make them here, for all children, on things of the kind that these will have: a file and two pipes."""
    null, file, pipe = os.dup(0), os.memfd_create("stdin"), os.pipe()
    for number, target in ((file, 0), (pipe[1], 1), (pipe[1], 2)):
        os.dup2(number, target)
    fresh_streams()
    for number in range(3):
        os.dup2(null, number)
    for number in (null, file, *pipe):
        os.close(number)


def _reset_signals() -> None:
    """Whatever the owner ignores or blocks, programs start as from a shell."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _import_extras(names: list[str], path: list[str]) -> None:
    before = list(sys.path)
    sys.path += path
    try:
        missing = preload(names)
        if "numpy" in sys.modules:  # what it would import when it is used
            preload(["numpy.random", "numpy.linalg", "numpy.fft", "numpy.polynomial", "numpy.ma", "numpy.testing"])
    finally:
        sys.path[:] = before
    if missing:
        raise CannotConfineError(f"extra_modules: cannot import {', '.join(missing)}")


def _serve(control: socket.socket, lockdown: Lockdown, request: dict[str, Any], passed: list[int]) -> dict[str, Any]:
    started = time.monotonic()
    zygote = os.getpid()
    try:
        child = os.fork()
        if child == 0:
            _child(lockdown, request, passed, zygote)
    finally:
        for number in passed:
            os.close(number)
    reason, status, cpu = _watch(control, child, request["limits"], started, lockdown.threads)
    if not lockdown.program:
        # Without the filter there may be more processes: at least those that stayed in the group go.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    return {"reason": reason, "status": status, "cpu": cpu, "wall": time.monotonic() - started}


def _watch(
    control: socket.socket, child: int, limits: dict[str, float], started: float, threads: bool
) -> tuple[str, int, float]:
    """Wait for the child's end, and bring it about where a limit is hit or the owner asks. Gives why, status, CPU."""
    cores = min(os.cpu_count() or 1, int(limits["max_threads"]) if threads else 1)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    pidfd = -1
    with suppress(OSError):  # before Linux 5.3: look every millisecond
        pidfd = os.pidfd_open(child)
        poller.register(pidfd, select.POLLIN)
    reason = ""
    try:
        while True:
            done, status, usage = os.wait4(child, os.WNOHANG)
            if done:
                return reason, status, usage.ru_utime + usage.ru_stime
            left_wall = started + limits["wall_seconds"] - time.monotonic()
            left_cpu = limits["cpu_seconds"] - time.clock_gettime((~child << 3) | _CPU_CLOCK)
            if not reason and (left_wall <= 0 or left_cpu <= 0):
                reason = "wall" if left_cpu > 0 else "cpu"
                os.kill(child, signal.SIGKILL)
            # The child cannot use up its CPU time sooner than this.
            nap = _LONGEST_NAP if reason else min(left_wall, left_cpu / cores, _LONGEST_NAP)
            if pidfd < 0:
                nap = 0.001
            for number, _ in poller.poll(max(1, int(nap * 1000))):
                if number == control.fileno() and _told_to_stop(control, child) and not reason:
                    reason = "stop"
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _told_to_stop(control: socket.socket, child: int) -> bool:
    message = control.recv(64)
    os.kill(child, signal.SIGKILL)  # not reaped yet, so the number is still the child's
    if not message:
        os.waitpid(child, 0)
        os._exit(0)
    return True


def _child(lockdown: Lockdown, request: dict[str, Any], passed: list[int], zygote: int) -> NoReturn:
    try:
        _arrange(passed, lockdown.rules)
        sizes = (request["source"], request["call"])
        limits = request["limits"]
        confine(lockdown, limits, zygote=zygote, rules=_RULES_FD)
        source, call = (_read(_SOURCE_FD, size) for size in sizes)
        os.close(_SOURCE_FD)
        if lockdown.rules >= 0:
            os.close(_RULES_FD)
        box, namespace = [call, source], fresh_main()
        fresh_interpreter()
        install_filter(lockdown)
    except BaseException as error:  # noqa: BLE001 (told to the owner, as the sandbox's own failure)
        with suppress(BaseException):
            os.write(_READY_FD, f"E{type(error).__name__}: {error}".encode("utf-8", "replace")[:500])
        os._exit(1)
    # From here on a failure is the program's. It cannot take this byte back, nor write it itself.
    os.write(_READY_FD, b"R")
    os.close(_READY_FD)
    del lockdown, request, passed, zygote, sizes, limits, source, call
    run_program(box, namespace)


def _arrange(passed: list[int], rules: int) -> None:
    """Put stdin, stdout, stderr, result, ready, source and Landlock's rules at 0 to 6, and close everything else."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in passed]
    if rules >= 0:
        high.append(fcntl.fcntl(rules, fcntl.F_DUPFD, 100))
    for number, target in zip(high, range(7), strict=False):
        os.dup2(number, target)
    os.closerange(len(high), MAX_FDS)


def _read(number: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(number, size)
        if not part:
            raise EOFError("the source ends too soon")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

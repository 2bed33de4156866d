"""What the zygote finds out about its machine once, and how each of its children is locked in."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward.sandbox import filter as seccomp
from reward.sandbox import landlock
from reward.sandbox.syscalls import ARCHITECTURES, VERIFIED, Architecture

MAX_FDS = 256  # of the zygote; closing everything below is quick on any kernel
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
_NEWUSER, _NEWIPC, _NEWNET = 0x10000000, 0x08000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class CannotConfineError(RuntimeError):
    """One line that says which feature is missing."""


@dataclass(frozen=True)
class Lockdown:
    """What a zygote can do to its children.

    Attributes:
        arch: of the machine.
        abi: Landlock's version, or 0 where it is not used.
        rules: the descriptor of Landlock's rules, or -1.
        program: the filter's bytes; empty where seccomp is not used.
        pids: where in them the child's pid is to be written.
        uid: that children change to, or None.
        userns: the zygote lives in a user namespace of its own.
        chroot: the zygote sees the standard library as `/` and nothing else.
        threads: children may have threads, since the kernel counts them.
        others: processes that count against the child's own limit of processes.
    """

    arch: Architecture
    abi: int
    rules: int
    program: bytes
    pids: tuple[int, ...]
    uid: int | None
    userns: bool
    chroot: bool
    threads: bool
    others: int


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function.__name__}: {os.strerror(code)}")


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _call(_libc.prctl, ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)


def architecture() -> Architecture:
    """The machine's. Raises `CannotConfineError` where the filter has no table, or an untried one."""
    name = os.uname().machine
    if sys.platform != "linux" or struct.calcsize("P") != 8 or name not in ARCHITECTURES:
        raise CannotConfineError(f"no system call table for {sys.platform} on {name}, {8 * struct.calcsize('P')} bit")
    if name not in VERIFIED:
        raise CannotConfineError(f"the system call table for {name} has not been tried on such a machine yet")
    return ARCHITECTURES[name]


def stdlib_folders() -> list[str]:
    """Where this interpreter, started without `site`, looks for modules."""
    return [entry for entry in sys.path if entry and Path(entry).is_dir()]


def prepare(*, use_landlock: bool, use_seccomp: bool, uid_base: int) -> Lockdown:
    """Find out what can be had, build rules and filter, and lock the zygote itself in as far as it goes."""
    arch = architecture()
    folders = stdlib_folders()
    # Set first: an undumpable process's /proc entries belong to root.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FDS, MAX_FDS))
    root = os.geteuid() == 0
    # One user for each zygote, by its pid: workers that know nothing of each other then rarely share one.
    uid = uid_base + os.getpid() % 4000 if root else None
    if uid is not None and not _can_drop_to(uid):
        uid = None
    userns = not root and _unshare(_NEWUSER)
    version = landlock.abi(arch) if use_landlock else 0
    rules = landlock.ruleset(arch, version, folders) if version else -1
    if version and not _landlock_holds(arch, version, rules):
        os.close(rules)
        version, rules = 0, -1
    _unshare(_NEWNET)
    _unshare(_NEWIPC)
    chroot = _chroot(folders)
    if not chroot:
        os.chdir("/")
    _prctl(_DUMPABLE, 0)
    # A user's processes are counted for a user without privileges, in the user namespace they live in.
    threads = uid is not None or userns
    program = bytes(seccomp.assemble(arch, seccomp.rules(arch, files=bool(version), threads=threads)))
    if not use_seccomp:
        program = b""
    pids = tuple(seccomp.pid_offsets(program))
    return Lockdown(arch, version, rules, program, pids, uid, userns, chroot, threads, 1 if userns else 0)


def _unshare(flags: int) -> bool:
    return int(_libc.unshare(ctypes.c_int(flags))) == 0


def _drop_to(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _can_drop_to(uid: int) -> bool:
    """Whether a child can become that user, and be killed then: some containers allow neither, or only the first."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            _drop_to(uid)
            theirs.send(b"R")
            signal.pause()
        finally:
            os._exit(1)
    theirs.close()
    dropped = ours.recv(1) == b"R"
    ours.close()
    try:
        os.kill(child, signal.SIGKILL)
    except PermissionError:
        raise CannotConfineError("root here may change users but not kill: grant CAP_KILL, or neither") from None
    os.waitpid(child, 0)
    return dropped


def _landlock_holds(arch: Architecture, version: int, rules: int) -> bool:
    """Try it on a child: a kernel may know the call and not mean it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _prctl(_NO_NEW_PRIVS, 1)
            landlock.restrict(arch, version, rules)
            os.close(os.open("/", os.O_RDONLY))
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _chroot(folders: list[str]) -> bool:
    """Make the standard library the root, so that no other path even exists.

    No boundary of its own (Landlock and seccomp are), but it hides names, sizes and dates of files, which Landlock
    does not, it keeps the machine's paths out of error texts, and an interpreter in a private folder stays readable
    for a user that cannot enter this folder, with no capability left to the program for it.
    """
    home = os.path.dirname(os.path.realpath(os.__file__))  # noqa: PTH120 (pathlib would be half of what is relocated)
    inside = [os.path.relpath(folder, home) for folder in folders]
    if any(part.startswith("..") for part in inside):
        return False
    try:
        os.chroot(home)
    except OSError:
        return False
    os.chdir("/")
    sys.path[:] = [os.path.normpath(f"/{part}") for part in inside]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        _relocate(module, home)
    return True


def _relocate(module: Any, home: str) -> None:
    """Make a module that was imported before the chroot find its own submodules after it."""
    for holder, name in (
        (module, "__file__"),
        (module, "__cached__"),
        (module, "__path__"),
        (getattr(module, "__spec__", None), "origin"),
        (getattr(module, "__spec__", None), "submodule_search_locations"),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, str) and value.startswith(home + "/"):
            setattr(holder, name, value.removeprefix(home))
        elif isinstance(value, list):
            value[:] = [path.removeprefix(home) or "/" for path in value]


def confine(lockdown: Lockdown, limits: dict[str, float], *, zygote: int, rules: int) -> None:
    """Everything but the filter, in the child, where Landlock's rules are at `rules`. Raises if any of it fails."""
    os.setsid()
    _limit(lockdown, limits)
    if lockdown.uid is not None:
        _drop_to(lockdown.uid)
    _drop_capabilities(lockdown.arch)
    # After the change of user, which forgets it. The zygote has one thread, so its thread's end is its own.
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        raise ProcessLookupError("the zygote is gone")
    _prctl(_DUMPABLE, 0)
    _prctl(_NO_NEW_PRIVS, 1)
    if lockdown.abi:
        landlock.restrict(lockdown.arch, lockdown.abi, rules)


def confine_alone(limits: dict[str, float], *, threads: bool) -> Lockdown:
    """The same for a process without zygote, whose files and neighbours are hidden from it by other means."""
    arch = architecture()
    program = bytes(seccomp.assemble(arch, seccomp.rules(arch, files=True, threads=threads)))
    pids = tuple(seccomp.pid_offsets(program))
    lockdown = Lockdown(arch, 0, -1, program, pids, None, True, False, threads, 2)
    _limit(lockdown, limits)
    # Nobody watches the clock from outside: the softer signal says why it came.
    seconds = math.ceil(limits["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    _drop_capabilities(arch)
    _prctl(_DUMPABLE, 0)
    _prctl(_NO_NEW_PRIVS, 1)
    return lockdown


def _drop_capabilities(arch: Architecture) -> None:
    """Without a change of user there may be some left, if only in a namespace."""
    header, none = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 0, 0, 0, 0, 0, 0)
    _call(_libc.syscall, ctypes.c_long(arch.numbers["capset"]), header, none)


def install_filter(lockdown: Lockdown) -> None:
    """The last step: from here on, only the listed system calls. The process must have one thread."""
    if not lockdown.program:
        return
    program = bytearray(lockdown.program)
    for at in lockdown.pids:
        struct.pack_into("=I", program, at, os.getpid())
    buffer = (ctypes.c_char * len(program)).from_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _call(
        _libc.syscall,
        ctypes.c_long(lockdown.arch.numbers["seccomp"]),
        ctypes.c_uint(1),
        ctypes.c_uint(0),
        header,
    )


def _limit(lockdown: Lockdown, limits: dict[str, float]) -> None:
    megabyte = 1 << 20
    cpu = math.ceil(limits["cpu_seconds"]) + 1  # whole seconds only; the zygote enforces the fraction
    hard = {
        resource.RLIMIT_AS: int(limits["memory_mb"]) * megabyte,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_NOFILE: int(limits["max_open_files"]),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if lockdown.threads:
        hard[resource.RLIMIT_NPROC] = int(limits["max_threads"]) + lockdown.others
    for kind, value in hard.items():
        ceiling = resource.getrlimit(kind)[1]
        bound = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(kind, (bound, bound))
    # The hard limit stays: programs raise it for deep recursion, and the address space bounds it anyway.
    ceiling = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = int(limits["stack_mb"]) * megabyte
    resource.setrlimit(
        resource.RLIMIT_STACK, (stack if ceiling == resource.RLIM_INFINITY else min(stack, ceiling), ceiling)
    )

"""The seccomp filter: a short list of allowed system calls, with checks of their arguments, as BPF.

Everything else fails with EPERM, as if forbidden by file permissions: honest programs that try something exotic get an
exception and go on. There is no fork, no exec, no socket and no shared memory in the list, so that one program is one
process, and one SIGKILL is its end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward.sandbox.syscalls import Architecture

# One BPF instruction: code, jump if true, jump if false, constant.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _AND, _EQUAL, _ABOVE_OR_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
_X32 = 0x40000000  # the bit of the x32 ABI: the same calls under other numbers
OWN_PID = 0x5EED51D5  # stands for the pid until the program is forked


@dataclass(frozen=True)
class Check:
    """An argument must, under a mask, be one of these values.

    `word` is the argument times two, for its low 32 bits; plus one, for its high ones. Where the kernel takes an
    `int`, it looks at the low word only, and so does the filter.
    """

    word: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


Rules = dict[str, tuple[Check, ...]]

_ANY = """
    read write close fstat poll lseek munmap brk mprotect mremap rt_sigaction rt_sigprocmask rt_sigreturn pread64
    readv writev select sched_yield dup dup2 dup3 pause nanosleep getitimer alarm setitimer getpid exit uname getcwd
    gettimeofday getrusage sysinfo times getuid getgid geteuid getegid getppid getpgrp rt_sigpending rt_sigtimedwait
    rt_sigsuspend sigaltstack gettid time restart_syscall exit_group pselect6 ppoll
    set_robust_list getcpu getrandom rseq
"""
# glibc asks for these first and falls back on a call that can be checked.
_PRETEND_ABSENT = ("clone3", "openat2", "faccessat2", "close_range", "statx", "pwritev2")
_PTHREAD = 0x3D0F00  # exactly what pthread_create asks of clone; musl adds CLONE_DETACHED, which does nothing
_DETACHED = 0x400000
_AT_EMPTY_PATH = 0x1000
_MAP_HUGETLB = 0x40000


def rules(arch: Architecture, *, files: bool, threads: bool) -> Rules:
    """The allowed calls: `files` lets read-only opens through to Landlock, `threads` allows `pthread_create`."""
    allowed: Rules = {name: () for name in _ANY.split() if name in arch.numbers}
    allowed |= {
        # Never huge pages: they are a pool of the whole machine.
        "mmap": (Check(6, (0,), _MAP_HUGETLB),),
        # Not MADV_MERGEABLE (a side channel), not MADV_HWPOISON.
        "madvise": (Check(4, (0, 1, 2, 3, 4, 8, 14, 15, 16, 17)),),
        # No priority inheritance, which threads of Python do not need: the mask drops PRIVATE and CLOCK_REALTIME.
        "futex": (Check(2, (0, 1, 3, 4, 5, 9, 10), 0xFFFFFFFF & ~(128 | 256)),),
        # The machine's clocks, not those of other processes.
        "clock_gettime": (Check(0, tuple(range(12))),),
        "clock_getres": (Check(0, tuple(range(12))),),
        "clock_nanosleep": (Check(0, (0, 1, 4, 7)),),
        # DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC; F_SETOWN would send signals to others.
        "fcntl": (Check(2, (0, 1, 2, 3, 4, 1030)),),
        # TCGETS, TIOCGWINSZ, FIONCLEX, FIOCLEX; TIOCSTI would type into a terminal.
        "ioctl": (Check(2, (0x5401, 0x5413, 0x5450, 0x5451)),),
        # Of others it would tell whether they exist.
        "sched_getaffinity": (Check(0, (0, OWN_PID)),),
        "kill": (Check(0, (OWN_PID,)),),
        "tgkill": (Check(0, (OWN_PID,)),),
        # Its own limits, of which the hard ones cannot be raised.
        "prlimit64": (Check(0, (0,)),),
    }
    if files:
        flags = 0o2000000 | 0o4000 | arch.o_directory | arch.o_nofollow | arch.o_largefile  # + CLOEXEC, NONBLOCK
        allowed |= {"openat": (Check(4, (0,), 0xFFFFFFFF & ~flags),), "getdents64": (), "newfstatat": ()}
        allowed |= {name: () for name in ("stat", "lstat") if name in arch.numbers}
    else:
        allowed["newfstatat"] = (Check(6, (_AT_EMPTY_PATH,)),)  # this is how glibc spells fstat
    if threads:
        allowed["clone"] = (Check(0, (_PTHREAD,), 0xFFFFFFFF & ~_DETACHED), Check(1, (0,)))
    return allowed


def assemble(arch: Architecture, allowed: Rules, *, absent: tuple[str, ...] = _PRETEND_ABSENT) -> bytearray:
    """The filter as the bytes of BPF instructions.

    It kills calls through another architecture or the x32 ABI, lets `allowed` calls through where all their checks
    hold, answers ENOSYS to `absent` ones, and EPERM to everything else.
    """
    out = [
        _INSTRUCTION.pack(_LOAD, 0, 0, 4),
        _INSTRUCTION.pack(_EQUAL, 1, 0, arch.audit),
        _INSTRUCTION.pack(_RETURN, 0, 0, KILL),
        _INSTRUCTION.pack(_LOAD, 0, 0, 0),
        _INSTRUCTION.pack(_ABOVE_OR_EQUAL, 0, 1, _X32),
        _INSTRUCTION.pack(_RETURN, 0, 0, KILL),
    ]
    answers = {arch.numbers[name]: [_INSTRUCTION.pack(_RETURN, 0, 0, _ERRNO | ENOSYS)] for name in absent}
    for name, checks in allowed.items():
        steps = [step for check in checks for step in _check(check)]
        answers[arch.numbers[name]] = [*steps, _INSTRUCTION.pack(_RETURN, 0, 0, ALLOW)]
    out += _search(sorted(answers.items()))
    if len(out) > 4096:
        raise ValueError(f"filter of {len(out)} instructions; the kernel takes 4096")
    return bytearray(b"".join(out))


def _search(answers: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """A binary search by number: with each new filter the kernel works out its answer to every number there is."""
    if len(answers) > 2:
        middle = len(answers) // 2
        below, above = _search(answers[:middle]), _search(answers[middle:])
        return [_INSTRUCTION.pack(_ABOVE_OR_EQUAL, len(below), 0, answers[middle][0]), *below, *above]
    found = []
    for number, steps in answers:
        found += [_INSTRUCTION.pack(_EQUAL, 0, len(steps), number), *steps]
    return [*found, _INSTRUCTION.pack(_RETURN, 0, 0, _ERRNO | EPERM)]


def _check(check: Check) -> list[bytes]:
    """Instructions that go on where the check holds and return EPERM where it does not."""
    steps = [_INSTRUCTION.pack(_LOAD, 0, 0, 16 + 4 * check.word)]
    if check.mask != 0xFFFFFFFF:
        steps.append(_INSTRUCTION.pack(_AND, 0, 0, check.mask))
    for index, value in enumerate(check.values):
        # A hit jumps over the values that are left, and over the return.
        steps.append(_INSTRUCTION.pack(_EQUAL, len(check.values) - index, 0, value))
    steps.append(_INSTRUCTION.pack(_RETURN, 0, 0, _ERRNO | EPERM))
    return steps


def pid_offsets(program: bytes | bytearray) -> list[int]:
    """Where in the bytes `OWN_PID` stands, to be overwritten after the fork."""
    marks = range(0, len(program), _INSTRUCTION.size)
    return [at + 4 for at in marks if _INSTRUCTION.unpack_from(program, at)[::3] == (_EQUAL, OWN_PID)]

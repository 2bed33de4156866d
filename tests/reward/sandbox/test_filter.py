"""The filter's bytes, worked by hand for a small one; what the whole one answers, by running it in Python."""

from __future__ import annotations

import struct

import pytest

from reward.sandbox.filter import ALLOW, KILL, OWN_PID, Check, assemble, pid_offsets, rules
from reward.sandbox.syscalls import ARCHITECTURES, VERIFIED, Architecture

X86 = ARCHITECTURES["x86_64"]
EPERM, ENOSYS = 0x50001, 0x50026


def test_a_small_filter_is_these_bytes() -> None:
    allowed = {"read": (), "kill": (Check(0, (OWN_PID,)),), "openat": (Check(4, (0,), 0xFFF),)}
    program = assemble(X86, allowed, absent=("clone3",))
    expected = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 1, 0, 0xC000003E),  # x86-64: on
        (0x06, 0, 0, 0x80000000),  # another: kill
        (0x20, 0, 0, 0),  # load the number
        (0x35, 0, 1, 0x40000000),  # the x32 ABI: kill
        (0x06, 0, 0, 0x80000000),
        (0x35, 8, 0, 257),  # from openat on: there
        (0x15, 0, 1, 0),  # read: allow
        (0x06, 0, 0, 0x7FFF0000),
        (0x15, 0, 4, 62),  # kill: first argument, low word, is the own pid
        (0x20, 0, 0, 16),
        (0x15, 1, 0, OWN_PID),
        (0x06, 0, 0, 0x00050001),
        (0x06, 0, 0, 0x7FFF0000),
        (0x06, 0, 0, 0x00050001),  # all else: EPERM
        (0x15, 0, 5, 257),  # openat: third argument, low word, masked, is 0
        (0x20, 0, 0, 32),
        (0x54, 0, 0, 0xFFF),
        (0x15, 1, 0, 0),
        (0x06, 0, 0, 0x00050001),
        (0x06, 0, 0, 0x7FFF0000),
        (0x15, 0, 1, 435),  # clone3: ENOSYS
        (0x06, 0, 0, 0x00050026),
        (0x06, 0, 0, 0x00050001),  # all else: EPERM
    ]
    assert program == b"".join(struct.pack("=HBBI", *step) for step in expected)
    assert pid_offsets(program) == [11 * 8 + 4]


def verdict(program: bytes, arch: Architecture, name: str | int, *arguments: int, audit: int | None = None) -> int:
    """What the filter returns, by the five instructions that it is made of."""
    number = arch.numbers[name] if isinstance(name, str) else name
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    words = [value >> shift & 0xFFFFFFFF for value in padded for shift in (0, 32)]
    data = struct.pack("=IIQ12I", number & 0xFFFFFFFF, arch.audit if audit is None else audit, 0, *words)
    at, accumulator = 0, 0
    while True:
        code, true, false, constant = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, constant)[0]
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x06:
            return int(constant)
        else:
            hit = accumulator == constant if code == 0x15 else accumulator >= constant
            at += true if hit else false


THREAD = 0x3D0F00


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda arch: arch.name)
@pytest.mark.parametrize(
    ("call", "full", "closed"),
    [
        (("read", 0), ALLOW, ALLOW),
        (("exit_group", 0), ALLOW, ALLOW),
        (("openat", -100, 0, 0o2000000), ALLOW, EPERM),
        (("openat", -100, 0, 0o2000001), EPERM, EPERM),
        (("openat", -100, 0, 0o2), EPERM, EPERM),
        (("openat", -100, 0, 0o100), EPERM, EPERM),
        (("openat", -100, 0, 0o1000), EPERM, EPERM),
        (("openat", -100, 0, 0o10000000), EPERM, EPERM),
        (("newfstatat", 3, 0, 0, 0x1000), ALLOW, ALLOW),
        (("newfstatat", -100, 0, 0, 0), ALLOW, EPERM),
        (("getdents64", 3), ALLOW, EPERM),
        (("clone", THREAD), ALLOW, EPERM),
        (("clone", THREAD & ~0x10000), EPERM, EPERM),
        (("clone", 17), EPERM, EPERM),
        (("clone", THREAD | 0x10000000), EPERM, EPERM),
        (("clone", THREAD | 1 << 40), EPERM, EPERM),
        (("clone3", 0), ENOSYS, ENOSYS),
        (("openat2", 0), ENOSYS, ENOSYS),
        (("kill", 4321, 9), ALLOW, ALLOW),
        (("kill", 4322, 9), EPERM, EPERM),
        (("kill", -1, 9), EPERM, EPERM),
        (("tgkill", 4321, 4400, 9), ALLOW, ALLOW),
        (("tgkill", 1, 4321, 9), EPERM, EPERM),
        (("prlimit64", 0, 7, 0), ALLOW, ALLOW),
        (("prlimit64", 1, 7, 0), EPERM, EPERM),
        (("fcntl", 1, 4, 0), ALLOW, ALLOW),
        (("fcntl", 1, 8, 0), EPERM, EPERM),
        (("fcntl", 1, 1033, 0), EPERM, EPERM),
        (("ioctl", 0, 0x5401), ALLOW, ALLOW),
        (("ioctl", 0, 0x5412), EPERM, EPERM),
        (("mmap", 0, 4096, 3, 0x22), ALLOW, ALLOW),
        (("mmap", 0, 4096, 3, 0x40022), EPERM, EPERM),
        (("madvise", 0, 4096, 4), ALLOW, ALLOW),
        (("madvise", 0, 4096, 12), EPERM, EPERM),
        (("futex", 0, 128), ALLOW, ALLOW),
        (("futex", 0, 6), EPERM, EPERM),
        (("clock_gettime", 1), ALLOW, ALLOW),
        (("clock_gettime", -16), EPERM, EPERM),
        (("socket", 2, 1), EPERM, EPERM),
        (("execve", 0), EPERM, EPERM),
        (("prctl", 1, 0), EPERM, EPERM),
        (("seccomp", 1), EPERM, EPERM),
        (("unshare", 0), EPERM, EPERM),
        ((9999,), EPERM, EPERM),
        (("sched_getaffinity", 0), ALLOW, ALLOW),
        (("sched_getaffinity", 1), EPERM, EPERM),
        ((0x40000000,), KILL, KILL),
        ((-1,), KILL, KILL),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else hex(value),
)
def test_every_call_gets_its_answer(arch: Architecture, call: tuple[str | int, ...], full: int, closed: int) -> None:
    name, *arguments = call
    for files, expected in ((True, full), (False, closed)):
        program = assemble(arch, rules(arch, files=files, threads=files))
        for at in pid_offsets(program):
            struct.pack_into("=I", program, at, 4321)
        assert verdict(program, arch, name, *(int(argument) for argument in arguments)) == expected


def test_another_architecture_is_killed() -> None:
    program = assemble(X86, rules(X86, files=True, threads=True))
    assert verdict(program, X86, "read", audit=0x40000003) == KILL
    assert verdict(program, X86, "read", audit=ARCHITECTURES["aarch64"].audit) == KILL


def test_the_whole_filter_is_small_and_holds_no_way_out() -> None:
    out = {"fork", "vfork", "execve", "socket", "unshare", "prctl", "seccomp", "personality", "capset"}
    for arch in ARCHITECTURES.values():
        allowed = rules(arch, files=True, threads=True)
        assert 50 <= len(allowed) <= 90
        assert not out & set(allowed)
        assert not {name for name in allowed if name.startswith("landlock")}
        assert len(assemble(arch, allowed)) // 8 < 400


def test_numbers_are_no_two_calls_at_once() -> None:
    for arch in ARCHITECTURES.values():
        assert len(set(arch.numbers.values())) == len(arch.numbers) > 70
    assert set(ARCHITECTURES) >= VERIFIED

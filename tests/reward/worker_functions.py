"""What workers are made to do in tests."""

from __future__ import annotations

import os
import signal
import sys


def idle() -> None:
    pass


def spin() -> None:
    while True:
        pass


def spin_in_c() -> int:
    """Python code cannot be interrupted in here."""
    return len(str(10**9 ** (10**2)))


def spin_deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    spin()


def leave() -> None:
    os._exit(0)


def out_of_memory() -> None:
    bytearray(1 << 40)


def environment() -> list[str]:
    return sorted(set(os.environ) - {"LC_CTYPE"})


def noise() -> str:
    print("x" * 10**6, flush=True)  # noqa: T201
    sys.stderr.write("x" * 10**6)
    os.write(1, b"\x00\x00\x00\x01x")
    return sys.stdin.read()

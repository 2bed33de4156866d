"""Runs a script under an outer seccomp filter, as old container runtimes do: `restricted.py CALL,CALL SCRIPT`."""

from __future__ import annotations

import ctypes
import runpy
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from reward.sandbox.syscalls import ARCHITECTURES


def refuse(names: list[str], code: int) -> None:
    """From here on, these calls fail with that error number."""
    numbers = ARCHITECTURES["x86_64"].numbers
    steps = [(0x20, 0, 0, 0)]
    for name in names:
        steps += [(0x15, 0, 1, numbers[name]), (0x06, 0, 0, 0x50000 | code)]
    steps.append((0x06, 0, 0, 0x7FFF0000))
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.syscall(numbers["seccomp"], 1, 0, struct.pack("@HP", len(steps), ctypes.addressof(buffer))) == 0


if __name__ == "__main__":
    refuse([name for name in sys.argv[1].split(",") if name], 1)
    runpy.run_path(sys.argv[2], run_name="__main__")

"""Hostile programs that the sandbox runs on itself before it takes any other: each must fail in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from reward.sandbox.types import ExecutionResult

_REFUSED = """
def refused(name, attempt):
    try:
        attempt()
    except (OSError, RuntimeError, ValueError):
        return
    print("not refused:", name)
"""

_NATIVE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, *arguments):
    if getattr(libc, name)(*map(ctypes.c_long, arguments)) != -1:
        print("not refused:", name)
"""

ARITHMETIC = "print(6 * 7)"
LAZY_IMPORT = "import wave, mailbox; print(wave.__name__)"

# What to run, by what it shows. All of them print nothing where they are contained.
HOSTILE = {
    "reads files": _REFUSED
    + "import os\n"
    + "for path in ('/etc/passwd', '/proc/self/environ', '/proc/self/maps', '/dev/zero'):\n"
    + "    refused(path, lambda: open(path, 'rb').read(1))\n"
    + "refused('chdir', lambda: os.chdir('/tmp'))",
    "writes files": _REFUSED
    + "import os\n"
    + "for folder in ('/tmp', '/dev/shm', '/var/tmp', '/', '.'):\n"
    + "    refused(folder, lambda: os.open(folder + '/sandbox-selftest', os.O_CREAT | os.O_WRONLY))\n"
    + "    refused(folder, lambda: os.mkdir(folder + '/sandbox-selftest.d'))",
    "starts processes": _REFUSED
    + "import os\n"
    + "refused('fork', lambda: os.fork() or os._exit(0))\n"
    + "refused('exec', lambda: os.execv('/bin/true', ['true']))\n"
    + "refused('spawn', lambda: os.posix_spawn('/bin/true', ['true'], {}))",
    "uses the network": _REFUSED
    + "import socket\n"
    + "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):\n"
    + "    refused(family, lambda: socket.socket(family, socket.SOCK_DGRAM))",
    "signals other processes": _REFUSED
    + "import os\n"
    + "for target in (os.getppid(), -1, 0, 1):\n"
    + "    refused(target, lambda: os.kill(target, 0))",
    "inherits something": (
        "import os\n"
        "for number in range(4, 256):\n"
        "    try:\n"
        "        os.fstat(number)\n"
        "    except OSError:\n"
        "        continue\n"
        "    print('open descriptor', number)\n"
        "print(*sorted(set(os.environ) - {'HOME', 'LC_ALL', 'PATH', 'TZ'}), end='')"
    ),
    "calls the kernel by itself": _NATIVE
    + "import os\n"
    + "refused('ptrace', 16, os.getppid(), 0, 0)\n"
    + "refused('unshare', 0)\n"
    + "refused('prctl', 1, 0, 0, 0, 0)\n"
    + "refused('memfd_create', 0, 0)\n"
    + "refused('setsid')\n"
    + "refused('chroot', 0)",
    "takes too much memory": "try:\n    bytearray(1 << 32)\n    print('4 GB')\nexcept MemoryError:\n    pass",
}


def selftest(run: Callable[[str], ExecutionResult]) -> str:
    """What is wrong with a sandbox, in one line; empty if nothing is."""
    result = run(ARITHMETIC)
    if result.status != "ok" or result.stdout != "42\n":
        return f"print(6 * 7) gave {result.status}: {(result.stderr or result.stdout).strip()[-300:]}"
    for name, source in HOSTILE.items():
        result = run(source)
        if result.status != "ok" or result.stdout:
            said = (result.stdout or result.stderr).strip().splitlines()
            return f"a program that {name} was not contained ({result.status}): {said[0] if said else ''}"
    return ""

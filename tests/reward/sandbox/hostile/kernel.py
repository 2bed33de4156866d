# ruff: noqa: E501 (attacks read best one to a line)
"""Attacks on the kernel through raw system calls (numbers of x86-64), and on the order in which it serves people."""

from __future__ import annotations

from reward.sandbox import Limits
from tests.reward.sandbox.hostile.case import CRASHED, SIGSYS, Hostile

# Machine code that takes six arguments and a number in rax as a C function, and calls the kernel by `entry`.
_NATIVE = """
def native(code):
    page = syscall(9, 0, 4096, 7, 0x22, -1, 0)
    ctypes.memmove(page, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_long)(page)
"""


def _calls(name: str, *attempts: str) -> Hostile:
    """Each attempt is the number and the arguments of a system call that must fail."""
    return Hostile(name, "\n".join(f"got({attempt!r}, syscall, {attempt})" for attempt in attempts))


PROGRAMS = [
    Hostile(
        "connects to a port",
        "import socket\ngot('tcp', lambda: socket.create_connection(('127.0.0.1', T['tcp']), 2).send(b'x'))",
        control=True,
    ),
    Hostile(
        "sends a datagram",
        "import socket\ngot('udp', lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', T['udp'])))",
        control=True,
    ),
    Hostile(
        "connects to a unix socket by its path",
        "import socket\ngot('path', lambda: socket.socket(socket.AF_UNIX).connect(T['path']))",
        control=True,
    ),
    Hostile(
        "connects to a unix socket without a path",
        "import socket\ngot('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0' + T['abstract']))",
        control=True,
    ),
    Hostile(
        "opens sockets of every kind",
        "import socket\n"
        "for family in range(46):\n    for kind in (1, 2, 3, 5): got((family, kind), socket.socket, family, kind)\n"
        "got('pair', socket.socketpair); got('dns', socket.gethostbyname, 'localhost'); got('names', socket.if_nameindex)\n"
        "for n in range(8): got('send', syscall, 44, n, b'x', 1, 0, 0, 0); got('msg', syscall, 46, n, bytes(56), 0)\n"
        "got('asyncio', lambda: __import__('asyncio').new_event_loop())",
        limits=Limits(cpu_seconds=2, wall_seconds=20),
    ),
    _calls("io_uring", "425, 8, bytes(120)", "426, 3, 1, 0, 0, 0", "427, 3, 0, 0, 0", "206, 8, bytes(8)"),
    _calls("bpf, perf and userfaultfd", "321, 0, bytes(120), 120", "298, bytes(120), 0, -1, -1, 0", "323, 1", "323, 0"),
    _calls("keys", "248, b'user', b'a', b'b', 1, -1", "249, b'user', b'a', 0, 0", "250, 0, -3, 1", "250, 1, 0"),
    _calls("anonymous files", "319, b'x', 0", "447, 0", "29, 0x77, 4096, 0o1777", "30, 0, 0, 0", "68, 0x77, 0o1777"),
    _calls("traces", "101, 0, 0, 0, 0", "101, 16, T['zygote'], 0, 0", "101, 0x4206, T['supervisor'], 0, 0"),
    _calls(
        "other processes by descriptor",
        "434, T['zygote'], 0",
        "434, os.getpid(), 0",
        "438, 0, 1, 0",
        "424, 0, 9, 0, 0",
        "440, 0, 0, 0, 0, 0",
        "448, 0, 0",
        "312, T['zygote'], os.getpid(), 0, 0, 0",
    ),
    _calls(
        "mounts",
        "165, b'none', b'/', b'tmpfs', 0, 0",
        "166, b'/', 2",
        "155, b'.', b'.'",
        "161, b'/'",
        "430, b'tmpfs', 0",
        "428, -100, b'/', 1",
        "429, -100, b'/', -100, b'/', 0",
        "432, 0, 0, 0",
        "442, -100, b'/', 0, bytes(32), 32",
        "457, 0, 0, 0, 0",
        "443, 0, 0, 0, 0",
    ),
    _calls("namespaces", *(f"272, {1 << bit}" for bit in (7, 9, 17, 25, 26, 27, 28, 29, 30)), "308, 0, 0", "272, 0"),
    _calls(
        "processes by clone",
        "56, 17, 0, 0, 0, 0",
        "56, 0x10000011, 0, 0, 0, 0",
        "56, 0x4100, 0, 0, 0, 0",
        "56, 0x3D0F00 | 1 << 33, 0, 0, 0, 0",
        "435, (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17), 88",
        "435, bytes(64), 64",
    ),
    _calls(
        "its own chains",
        *(f"157, {option}, 1, 0, 0, 0" for option in (1, 4, 8, 15, 22, 24, 28, 35, 36, 38, 40, 47, 59, 0x59616D61)),
        "317, 0, 0, 0",
        "317, 1, 8, bytes(16)",
        "317, 2, 0, bytes(4)",
        "135, 0x40000",
        "444, 0, 0, 1",
        "446, 0, 0",
        "126, bytes(8), bytes(24)",
        "125, bytes(8), bytes(24)",
    ),
    _calls(
        "other users",
        *(f"{number}, 0, 0, 0" for number in (105, 106, 113, 114, 117, 119, 122, 123, 116, 112, 109)),
        "115, 0, 0",
        "118, bytes(4), bytes(4), bytes(4)",
    ),
    _calls(
        "files through pipes",
        "275, 1, 0, 3, 0, 9, 0",
        "276, 1, 3, 9, 0",
        "278, 1, bytes(16), 1, 0",
        "40, 1, 0, 0, 9",
        "326, 0, 0, 1, 0, 9, 0",
        "296, 1, bytes(16), 1, 0",
        "22, bytes(8)",
        "293, bytes(8), 0",
    ),
    _calls(
        "watches and events",
        "253",
        "294, 0",
        "300, 0, 0",
        "283, 0, 0",
        "290, 1, 0",
        "291, 0",
        "289, -1, bytes(8), 8, 0",
        "254, 0, b'/', 1",
    ),
    _calls(
        "the machine's settings",
        "169, 0xfee1dead, 672274793, 0x1234567, 0",
        "246, 0, 0, 0, 0",
        "175, b'', 0, b''",
        "313, 0, b'', 0",
        "167, b'x', 0",
        "103, 3, bytes(9), 9",
        "170, b'x', 1",
        "171, b'x', 1",
        "227, 0, bytes(16)",
        "159, bytes(208)",
        "164, bytes(16), 0",
        "156, bytes(99)",
        "179, 0, 0, 0, bytes(99)",
        "162",
        "163, 0",
    ),
    _calls(
        "the processor",
        "172, 3",
        "173, 0, 100, 1",
        "154, 1, bytes(16), 16",
        "158, 0x1002, 0",
        "216",
    ),
    _calls(
        "memory policies",
        "237, 0, 0, 0",
        "256, 0, 9, bytes(8), bytes(8)",
        "279, 0, 1, bytes(8), 0, 0, 0",
        "28, 0, 4096, 12",
        "28, 0, 4096, 100",
    ),
    _calls(
        "priority",
        "140, 0, 0",
        "141, 0, 0, -20",
        "141, 0, 0, 19",
        "251, 1, 0, 0x2000",
        "203, 0, 8, b'\\x01' + bytes(7)",
        "144, 0, 1, bytes(4)",
        "142, 0, bytes(4)",
        "314, 0, bytes(56), 0",
        "315, 0, bytes(56), 56, 0",
        "160, 7, bytes(16)",
    ),
    Hostile(
        "raises its limits",
        "import resource\n"
        "for kind in range(16):\n"
        "    soft, hard = resource.getrlimit(kind)\n"
        "    if hard != -1:\n"
        "        got(kind, lambda: resource.setrlimit(kind, (hard + 1, hard + 1)) or kind)\n"
        "        got(kind, lambda: resource.setrlimit(kind, (-1, -1)) or kind)\n"
        "    got(kind, lambda: resource.prlimit(T['zygote'], kind))\n"
        "    got(kind, lambda: resource.prlimit(T['supervisor'], kind, (0, 0)))",
    ),
    Hostile(
        "asks for every system call that there is",
        "for number in range(600):\n"
        "    if number in (335, 336, *T['allowed']): continue  # these two crash where no uprobe is, past all filters\n"
        "    libc.syscall(*[ctypes.c_long(n) for n in (number, -1, -1, -1, -1, -1, -1)])\n"
        "    if ctypes.get_errno() not in (1, 38): print('GOT', number, ctypes.get_errno())\n"
        "    ctypes.set_errno(1)",
    ),
    Hostile("a call of the x32 ABI", "syscall(0x40000000 | 39); print('GOT back')", CRASHED, code=SIGSYS),
    Hostile("a call with no number", "syscall(-1); print('GOT back')", CRASHED, code=SIGSYS),
    Hostile(
        "a 32 bit call by its own machine code",
        _NATIVE + "native(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')(); print('GOT back')",
        CRASHED,
        code=SIGSYS,
    ),
    Hostile(
        "a socket by its own machine code",
        _NATIVE
        + "code = b'\\xbf\\x02\\0\\0\\0\\xbe\\x01\\0\\0\\0\\x31\\xd2\\xb8\\x29\\0\\0\\0\\x0f\\x05\\xc3'\n"
        + "value = native(code)()\nprint(value)\nif value != -1: print('GOT', value)",
    ),
    Hostile(
        "a fork by its own machine code",
        _NATIVE + "value = native(b'\\xb8\\x39\\0\\0\\0\\x0f\\x05\\xc3')()\nif value != -1: print('GOT', value)",
    ),
]

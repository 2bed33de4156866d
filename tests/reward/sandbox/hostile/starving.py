# ruff: noqa: E501 (attacks read best one to a line)
"""Attacks on memory, time and whoever has to read what a program writes."""

from __future__ import annotations

from reward.sandbox import Limits
from tests.reward.sandbox.hostile.case import ASLEEP, CRASHED, ENDED, FULL, SOON, STARVED, STOPPED, Hostile

_ROOM = Limits(cpu_seconds=0.3, wall_seconds=6, memory_mb=160)
_EATEN = STARVED | STOPPED | CRASHED
_FLOOD = FULL | ENDED

PROGRAMS = [
    Hostile("one huge allocation", "x = bytearray(1 << 34); print('GOT', len(x))", STARVED),
    Hostile("a list that doubles", "x = [0]\nwhile True: x += x", _EATEN, limits=_ROOM),
    Hostile("memory touched page by page", "x = []\nwhile True: x.append(bytearray(1 << 20))", _EATEN, limits=_ROOM),
    Hostile(
        "memory of the kernel's own, private and shared",
        "x = []\n"
        "for flags in (0x22, 0x21, 0x4022, 0x8021):  # private, shared, not reserved, filled at once\n"
        "    try:\n"
        "        while len(x) < 40: x.append(syscall(9, 0, 1 << 26, 3, flags, -1, 0))\n"
        "    except OSError: pass\n"
        "if len(x) >= 4: print('GOT', len(x))\n"
        "for m in x:\n    for page in range(m, m + (1 << 26), 4096): ctypes.memset(page, 1, 1)",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile(
        "memory by malloc, sbrk and mremap",
        "libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p\ntotal = 0\n"
        "while total < 1 << 31 and (p := libc.malloc(ctypes.c_size_t(1 << 24))): total += 1 << 24; ctypes.memset(p, 1, 1 << 24)\n"
        "if total >= 160 << 20: print('GOT malloc')\n"
        "while total < 1 << 31 and libc.sbrk(ctypes.c_ssize_t(1 << 20)) not in (None, ctypes.c_void_p(-1).value): total += 1 << 20\n"
        "if total >= 160 << 20: print('GOT sbrk')\n"
        "got('huge', syscall, 9, 0, 1 << 21, 3, 0x40022, -1, 0); got('lock', syscall, 149, 0, 4096); got('all', syscall, 151, 3)",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile(
        "memory by numbers, formats and repeats",
        "for work in ('1 << (1 << 35)', '10 ** (10 ** 9)', \"'%*d' % (1 << 33, 1)\", \"f'{1:>9999999999}'\", \"'x' * (1 << 36)\",\n"
        "             '(0,) * (1 << 33)', \"'{:9999999999}'.format(1)\", 'bytes(1 << 40)', 'range(1 << 70).__len__()',\n"
        "             'list(range(1 << 40))', \"'ab'.replace('', 'x' * (1 << 31))\", '[[0] * 10**5] * 10**9'):\n"
        "    got(work, lambda: len(str(eval(work))))",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile(
        "bombs for decompressors",
        "import bz2, lzma, zlib\n"
        "for module in (zlib, bz2, lzma):\n"
        "    bomb = module.compress(bytes(1 << 22))\n"
        "    try:\n"
        "        for _ in range(2): bomb = module.compress(bomb * 50)\n"
        "        print('GOT', len(module.decompress(module.decompress(module.decompress(bomb)) * 999)))\n"
        "    except MemoryError: pass",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile(
        "recursion with the guard taken off",
        "import sys\nsys.setrecursionlimit(2**31 - 1)\nimport resource\ngot('x', lambda: resource.setrlimit(3, (-1, -1)) or 1 / 0)\n"
        "class A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile(
        "a sort that takes all the C stack",
        "x = []\nfor _ in range(10**6): x = [x]\nx == [x]; repr(x)",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile(
        "a bomb of threads with huge stacks",
        "import threading, time\nn = 0\n"
        "for size in (0, 1 << 26, 1 << 20):\n"
        "    threading.stack_size(size)\n"
        "    try:\n"
        "        for _ in range(10**4): threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); n += 1\n"
        "    except (RuntimeError, MemoryError): pass\n"
        "if n > 16: print('GOT', n)",
        _EATEN,
        limits=_ROOM,
    ),
    Hostile("computes for ever", "while True: pass", STOPPED),
    Hostile(
        "computes on every thread",
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(9):\n    try: threading.Thread(target=spin).start()\n    except RuntimeError: spin()",
        STOPPED,
    ),
    Hostile("one C call that holds the interpreter", "x = 7 ** 9999999 % 3", STOPPED),
    Hostile("a regular expression that explodes", "import re; re.match('(a*)*b', 'a' * 60)", STOPPED),
    Hostile("digits of a long number", "import sys; sys.set_int_max_str_digits(0); str(3 ** 999999)", STOPPED | ENDED),
    Hostile("sleeps", "import time\nwhile True: time.sleep(99)", STOPPED, limits=ASLEEP),
    Hostile(
        "waits for what never comes",
        "import select; select.select([], [], []); syscall(202, bytes(8), 0, 0, 0)",
        STOPPED,
        limits=ASLEEP,
    ),
    Hostile("yields and computes in turn", "import time\nwhile True: os.sched_yield(); time.sleep(0)", STOPPED),
    Hostile("floods stdout", "while True: print('x' * 9999)", FULL),
    Hostile("floods stderr", "import sys\nwhile True: sys.stderr.write('x' * 9999)", FULL),
    Hostile("floods the result", "while True: os.write(3, b'x' * 9999)", FULL),
    Hostile(
        "floods everything at once",
        "import threading\n"
        "def flood(n):\n    while True: os.write(n, b'x' * 65536)\n"
        "for n in (1, 2, 3):\n    try: threading.Thread(target=flood, args=(n,)).start()\n    except RuntimeError: flood(n)",
        FULL,
    ),
    Hostile("one write of everything", "x = bytes(400 << 20)\nos.write(1, x)", FULL | STARVED, limits=_ROOM),
    Hostile("a flood of single bytes", "for n in range(60000): os.write(1, b'x')", ENDED | STOPPED, limits=_ROOM),
    Hostile(
        "single bytes on three pipes in turn",
        "for n in range(8000): os.write(1, b'x'); os.write(2, b'x'); os.write(3, b'x'); os.sched_yield()",
        ENDED | STOPPED,
        limits=_ROOM,
    ),
    Hostile(
        "pipes that keep their packets apart",
        "for n in (1, 2, 3): got('x', lambda: __import__('fcntl').fcntl(n, 4, 0o40000) and 0 or 1 / 0)\n"
        "for n in range(5000): os.write(1, b'xy')\nos.write(1, b'x' * 70000)",
        _FLOOD | STOPPED,
        limits=_ROOM,
    ),
    Hostile(
        "pipes that are not to wait",
        "import fcntl\nfor n in (1, 2, 3): fcntl.fcntl(n, 4, 0o4000 | 0o20000)\n"
        "for n in range(99999):\n    try: os.write(1 + n % 3, b'x' * 99)\n    except OSError: pass",
        _FLOOD,
        limits=_ROOM,
    ),
    Hostile("never reads its input", "print(42)", ENDED, stdin="x" * 10**6),
    Hostile(
        "reads its input again and again",
        "while True: os.lseek(0, 0, 0); os.read(0, 1 << 20)",
        STOPPED,
        stdin="x" * 10**6,
    ),
    Hostile("closes its pipes and computes on", "os.closerange(0, 256)\nwhile True: pass", STOPPED),
    Hostile(
        "closes its pipes and sleeps", "import time\nos.closerange(0, 256)\ntime.sleep(99)", STOPPED, limits=ASLEEP
    ),
    Hostile(
        "as many descriptors as there are",
        "n = 0\nwhile n < 9999: os.dup(0); n += 1\nprint('GOT', n)",
        frozenset({"error"}),
    ),
    Hostile(
        "output that is no text", "os.write(1, bytes(range(256)) * 200); os.write(2, b'\\xff\\xfe' * 999)", limits=SOON
    ),
    Hostile("controls a terminal", "print('\\x1b]0;x\\x07\\x1b[2J\\x1b[8m\\x9b' * 99)", limits=SOON),
]

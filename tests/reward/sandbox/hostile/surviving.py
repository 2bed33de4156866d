# ruff: noqa: E501 (attacks read best one to a line)
"""Attacks on the end of a run: processes and threads that stay, and programs that will not die."""

from __future__ import annotations

from reward.sandbox import Limits
from tests.reward.sandbox.hostile.case import ASLEEP, CRASHED, STOPPED, Hostile

_LONG = "import time; time.sleep(60)"

PROGRAMS = [
    Hostile(
        "forks a child that stays", f"if os.fork() == 0:\n    os.setsid()\n    {_LONG}\n    os._exit(0)", control=True
    ),
    Hostile(
        "forks in every way there is",
        "import subprocess, multiprocessing\n"
        "for number in (57, 58): got(number, syscall, number)\n"
        "for flags in (17, 0, 0x100, 0x4000 | 0x100 | 17, 0x8000 | 17, 0x10000000 | 17, 0x3D0F00 & ~0x10000):\n"
        "    got(hex(flags), syscall, 56, flags, 0, 0, 0, 0)\n"
        "got('clone3', syscall, 435, (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17), 88)\n"
        "got('pty', lambda: __import__('pty').fork()); got('spawn', os.posix_spawn, '/bin/true', ['true'], {}); got('run', subprocess.run, ['true'])\n"
        "got('popen', lambda: os.popen('true').read() or 1 / 0); got('forkpty', os.forkpty)\n"
        "if os.system('true') not in (-1, 0x7f00): print('GOT system')\n"
        "for way in ('fork', 'spawn', 'forkserver'):\n"
        "    got(way, lambda: multiprocessing.get_context(way).Process(target=print).start())",
        limits=Limits(cpu_seconds=2, wall_seconds=20),
    ),
    Hostile(
        "becomes another program",
        "for path in ('/bin/sh', '/usr/bin/env', '/proc/self/exe', '/lib64/ld-linux-x86-64.so.2', '/bin/true'):\n"
        "    got(path, os.execv, path, ['x']); got(path, syscall, 322, -100, path.encode(), 0, 0, 0)\n"
        "got('stdin', syscall, 322, 0, b'', (ctypes.c_char_p * 2)(b'x', None), 0, 0x1000)",
        stdin="#!/bin/sh\necho GOT a shell\n",
    ),
    Hostile("a bomb of forks", "while True: os.fork()", status=frozenset({"error"})),
    Hostile(
        "a daemon thread that would outlive it",
        "import threading, time\n"
        "threading.Thread(target=lambda: [print('late', n) or time.sleep(0.01) for n in range(10**6)], daemon=True).start()",
    ),
    Hostile(
        "a thread that never ends",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        status=STOPPED | {"error"},
        limits=ASLEEP,
    ),
    Hostile(
        "the first thread leaves, another goes on computing",
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()\nsyscall(60, 0)",
        status=STOPPED | {"error"},
    ),
    Hostile(
        "blocks and ignores every signal",
        "import signal\n"
        "for n in range(1, 65): got('x', lambda: signal.signal(n, signal.SIG_IGN) and None or 1 / 0)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        status=STOPPED,
    ),
    Hostile(
        "sleeps with all signals blocked",
        "import signal\nsignal.pthread_sigmask(0, range(1, 65))\nwhile 1: signal.pause()",
        STOPPED,
        limits=ASLEEP,
    ),
    Hostile("stops itself", "import signal; os.kill(os.getpid(), signal.SIGSTOP)", STOPPED, limits=ASLEEP),
    Hostile(
        "stops its group and everybody",
        "import signal\nfor target in (0, -1, -os.getpid(), -os.getppid()): got(target, os.kill, target, signal.SIGSTOP)\n"
        "got('killpg', os.killpg, os.getpgrp(), 9)",
    ),
    Hostile("never leaves atexit", "import atexit\n@atexit.register\ndef f():\n    while 1: pass", STOPPED),
    Hostile("never leaves a finalizer", "class A:\n    def __del__(s):\n        while 1: pass\na = A()", STOPPED),
    Hostile(
        "starts again whenever it is to end",
        "import sys, threading, atexit\n"
        "def again(*a):\n    while True:\n        try: [0] * 9\n        except BaseException: pass\n"
        "threading._shutdown = atexit._run_exitfuncs = sys.excepthook = again",
        STOPPED,
    ),
    Hostile(
        "swallows every exception in a loop",
        "while True:\n    try: raise SystemExit\n    except BaseException: pass",
        STOPPED,
    ),
    Hostile(
        "timers that fire for ever",
        "import signal\nsignal.signal(signal.SIGPROF, lambda *a: None)\nsignal.setitimer(signal.ITIMER_PROF, 1e-5, 1e-5)\n"
        "while True: pass",
        STOPPED,
    ),
    Hostile("crashes", "ctypes.string_at(0)", CRASHED),
    Hostile("crashes in a signal handler's stack", "import faulthandler; faulthandler._sigsegv()", CRASHED),
    Hostile(
        "kills whoever it can name",
        "for pid in (T['supervisor'], T['zygote'], os.getppid(), 1, os.getpid() - 1, os.getpid() + 1, 2, 0, -1):\n"
        "    for number in (0, 9, 19):\n"
        "        if pid != os.getpid():\n"
        "            got(pid, os.kill, pid, number); got(pid, syscall, 200, pid, number)\n"
        "            got(pid, syscall, 234, pid, pid, number); got(pid, syscall, 129, pid, number, bytes(128))\n"
        "            got(pid, syscall, 297, pid, pid, number, bytes(128)); got(pid, syscall, 62, pid | 1 << 32, number)",
    ),
    Hostile(
        "has the kernel send signals for it",
        "for n in (0, 1, 2, 3):\n"
        "    for command, value in ((8, T['zygote']), (10, 9), (15, bytes(8)), (1024, 1), (1026, 1), (1031, 1 << 20), (1036, bytes(8))):\n"
        "        got((n, command), syscall, 72, n, command, value)\n"
        "    for request in (0x5412, 0x8901, 0x8902, 0x5452, 0x540E, 0x5410, 0x541C): got((n, request), syscall, 16, n, request, bytes(9))\n"
        "got('pdeathsig', syscall, 157, 1, 9, 0, 0, 0); got('timer', syscall, 222, 0, bytes(64), bytes(8))\n"
        "got('mq', syscall, 240, b'x', 0o102, 0o600, 0)",
    ),
]

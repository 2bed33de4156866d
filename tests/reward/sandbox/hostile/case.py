"""What a hostile program is, and what every one of them finds before its first line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from reward.sandbox import Limits

# One line, so that a program's own lines are numbered from 2. An attempt that works is a hole.
PRELUDE = "T = {targets!r}; exec(T.pop('tools'))\n"
TOOLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def got(what, attempt, *arguments):
    try:
        value = attempt(*arguments)
    except (Exception, SystemExit):
        return None
    print("GOT", what, repr(value)[:200], flush=True)
    return value
def syscall(number, *arguments):
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    value = libc.syscall(ctypes.c_long(number), *arguments)
    if value < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value
"""

ENDED = frozenset({"ok", "error"})
STOPPED = frozenset({"timeout"})
CRASHED = frozenset({"killed"})
FULL = frozenset({"output_limit"})
STARVED = frozenset({"memory", "error", "ok"})
SIGSYS = -31
SOON = Limits(cpu_seconds=0.15, wall_seconds=3)
ASLEEP = Limits(cpu_seconds=0.2, wall_seconds=0.4)


@dataclass(frozen=True)
class Hostile:
    """One attack.

    Contained is, for all of them: no `GOT` and no secret in what comes out; nothing seen by listeners, no process, no
    file, no change of the victim; the supervisor as before; and the status is one of `status`.

    Attributes:
        name: what it does, in a few words.
        source: the program; `T` tells it where everything is that it might attack.
        status: how it may end.
        call: what is asked of it as a value.
        value: whether that value is to decode, where this is what the attack is about.
        code: how it must end, where another signal would be an accident.
        before: a program that has just run in the same slot, with a secret in it.
        bare: without the prelude, as a compiler bomb must be.
        control: harmless enough to be run unconfined, where it must be found out.
    """

    name: str
    source: str
    status: frozenset[str] = ENDED
    call: str = ""
    value: bool | None = None
    code: int | None = None
    before: str = ""
    stdin: str = ""
    limits: Limits = field(default_factory=lambda: SOON)
    bare: bool = False
    control: bool = False

    def program(self, targets: dict[str, Any]) -> str:
        """What is run."""
        plain = json.loads(json.dumps({"tools": TOOLS, **targets}))
        return self.source if self.bare else PRELUDE.format(targets=plain) + self.source

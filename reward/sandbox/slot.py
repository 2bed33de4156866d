"""One zygote and the one run that it serves at a time, seen from the owner's side."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward.sandbox.collect import Collector, Outcome, sealed_file
from reward.sandbox.types import SandboxUnavailable

if TYPE_CHECKING:
    from reward.sandbox.types import Limits

BOOT_SECONDS = 60.0
GRACE_SECONDS = 5.0  # after the wall deadline, which the zygote enforces, the zygote itself is given up
UID_BASE = 60000
# A program that writes byte by byte is read in lots after so many reads, not to keep us busy.
_BRISK, _NAP = 32, 0.001
SECRETLESS = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/nonexistent",
    "PATH": "/nonexistent",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # One heap for all threads: otherwise memory limits would depend on the number of cores.
    "MALLOC_ARENA_MAX": "1",
}
# What the zygote is made of, in the order of imports. `-s -S` and not `-I`, which would ignore PYTHONHASHSEED.
_PARTS = ("syscalls", "filter", "landlock", "lockdown", "preload", "values", "program", "zygote")
_BOOT = """
import os, sys
folder, parts, again = sys.argv[1:]
if not again:
    # What only a new start can change: the stack's size, and address randomisation. Without the latter `None` and
    # types, which are hashed by address, stand in the same order in every zygote. Some containers insist on it.
    import ctypes, resource
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    eight = 8 << 20
    resource.setrlimit(resource.RLIMIT_STACK, (eight if hard == -1 else min(eight, hard), hard))
    ctypes.CDLL(None).personality(0x0040000)
    os.execv(sys.executable, [*sys.orig_argv[:-1], "again"])
from types import ModuleType
for name in ("reward", "reward.sandbox"):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = []
for name in parts.split(","):
    with open(f"{folder}/{name}.py", "rb") as file:
        code = compile(file.read(), "<sandbox>", "exec", dont_inherit=True)
    module = sys.modules[f"reward.sandbox.{name}"] = ModuleType(f"reward.sandbox.{name}")
    setattr(sys.modules["reward.sandbox"], name, module)
    exec(code, module.__dict__)
del os, sys
module.main()
"""


def own_interpreter() -> str:
    """The interpreter that runs this, outside its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


class ZygoteDied(Exception):  # noqa: N818 (it did)
    """The zygote went away in the middle of a run."""


@dataclass(frozen=True)
class ZygoteOptions:
    """How a zygote is to be started."""

    python: str
    landlock: bool = True
    seccomp: bool = True
    wide: bool = False
    extra_modules: tuple[str, ...] = ()
    extra_path: tuple[str, ...] = ()
    uid_base: int = UID_BASE


class Slot:
    """Owns a zygote, started when it is needed. Not thread-safe: a slot is handed from thread to thread."""

    def __init__(self, options: ZygoteOptions, *, recycle_after: int = 20000) -> None:
        self.options = options
        self.hello: dict[str, Any] = {}
        self.expected: dict[str, Any] = {}
        """What every later zygote must report too: it must not be confined any worse than the first."""
        self._recycle_after = recycle_after
        self._runs = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The zygote's process id, while it lives."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the zygote. Raises `SandboxUnavailable` with what it says where it cannot."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = os.memfd_create("zygote-stderr", os.MFD_CLOEXEC)
        here = str(Path(__file__).resolve().parent)
        command = [self.options.python, "-s", "-S", "-B", "-P", "-c", _BOOT, here, ",".join(_PARTS), ""]
        library_path = os.environ.get("LD_LIBRARY_PATH")
        env = SECRETLESS | ({"LD_LIBRARY_PATH": library_path} if library_path else {})
        try:
            # Its own session: Ctrl-C in a terminal is for the owner alone.
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=env,
                cwd="/",
                start_new_session=True,
            )
            self._control = ours
            theirs.close()
            self.hello = self._shake_hands(ours, errors)
        except OSError as error:
            ours.close()
            self.close()
            raise SandboxUnavailable(f"cannot start {self.options.python}: {error}") from None
        except SandboxUnavailable:
            self.close()
            raise
        finally:
            theirs.close()
            os.close(errors)
        self._runs = 0

    def _shake_hands(self, control: socket.socket, errors: int) -> dict[str, Any]:
        options = {key: value for key, value in asdict(self.options).items() if key != "python"}
        with suppress(BrokenPipeError):  # then it has said why on stderr
            control.send(json.dumps(options).encode())
        control.settimeout(BOOT_SECONDS)
        try:
            message = control.recv(1 << 16)
        except TimeoutError:
            raise SandboxUnavailable(f"{self.options.python} did not start within {BOOT_SECONDS:.0f} s") from None
        except ConnectionResetError:
            message = b""
        control.settimeout(None)
        hello: dict[str, Any] = json.loads(message) if message else {}
        if "error" in hello:
            raise SandboxUnavailable(hello["error"])
        if not hello:
            said = os.pread(errors, 4096, 0).decode("utf-8", "replace").strip().splitlines()
            if any("unknown option -P" in line for line in said):
                raise SandboxUnavailable(f"{self.options.python} is older than Python 3.11")
            raise SandboxUnavailable(f"{self.options.python} ended at start: {said[-1] if said else 'no message'}")
        odd = [key for key, value in self.expected.items() if hello[key] != value]
        if odd:
            raise SandboxUnavailable(f"a new zygote differs from the first in {', '.join(odd)}")
        return hello

    def close(self) -> None:
        """End the zygote, and with it whatever it runs."""
        process, self._process = self._process, None
        control, self._control = self._control, None
        if control:
            control.close()
        if process:
            process.kill()
            process.wait()

    def interrupt(self) -> None:
        """End the zygote from another thread; the one that owns the slot cleans up."""
        process = self._process
        if process:
            process.kill()

    def abandon(self) -> None:
        """Forget the zygote without touching it: after a fork, it is the parent's."""
        if self._control:
            self._control.close()
        if self._process:
            self._process.returncode = 0  # no warning about a process that is not ours
        self._process = self._control = None

    def run(self, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> Outcome:
        """Run one program.

        Raises:
            ZygoteDied: if the zygote ended first; the next run starts another.
            SandboxUnavailable: if none can be started, or for any other failure that is no program's fault.
        """
        if self._process and self._runs >= self._recycle_after:
            self.close()
        if not self._process:
            self.start()
        self._runs += 1
        try:
            return _Exchange(self._control, limits).perform(source, stdin, call)
        except (BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise ZygoteDied(str(error)) from error
        except OSError as error:  # no descriptors or no memory left, on our side: nothing that a program can do
            self.close()
            raise SandboxUnavailable(f"cannot run a program: {error}") from error
        except BaseException:  # Ctrl-C: the next run must not get this one's reply
            self.close()
            raise


class _Exchange:
    """One request, the outputs as they come, and the reply."""

    def __init__(self, control: socket.socket | None, limits: Limits) -> None:
        if control is None:
            raise ZygoteDied("the slot is closed")
        self._control = control
        self._limits = limits
        self._collector = Collector(limits)

    def perform(self, source: bytes, stdin: bytes, call: bytes) -> Outcome:
        try:
            self._ask(source, stdin, call)
            reply = self._follow()
            self._collector.drain_all()
        finally:
            self._collector.close()
        return Outcome.of(self._collector, reply["reason"], reply["status"], reply["cpu"], reply["wall"])

    def _ask(self, source: bytes, stdin: bytes, call: bytes) -> None:
        request = {"source": len(source), "call": len(call), "limits": vars(self._limits)}
        files = []
        try:
            files.append(sealed_file(stdin))
            files.append(sealed_file(source + call))
            passed = [files[0], *self._collector.writers, files[1]]
            socket.send_fds(self._control, [json.dumps(request).encode()], passed, socket.MSG_NOSIGNAL)
        finally:
            for number in files:
                os.close(number)
            self._collector.close_writers()

    def _follow(self) -> dict[str, Any]:
        """Drain outputs until the zygote replies. The reply ends a run, not the pipes: a fork of ours may hold them."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        for reader, name in self._collector.readers.items():
            if name != "ready":  # never full, so it can wait for the end
                poller.register(reader, select.POLLIN)
        deadline = time.monotonic() + self._limits.wall_seconds + GRACE_SECONDS
        told, wakes = False, 0
        while True:
            wakes += 1
            if wakes > _BRISK:
                time.sleep(_NAP)
            left = deadline - time.monotonic()
            if left <= 0:
                raise SandboxUnavailable("no reply from the zygote: the machine is overloaded, or it was stopped")
            for number, _ in poller.poll(int(left * 1000) + 1):
                if number == self._control.fileno():
                    message = self._control.recv(65536)
                    if not message:
                        raise ZygoteDied("the zygote ended")
                    reply: dict[str, Any] = json.loads(message)
                    if "error" in reply:
                        raise SandboxUnavailable(f"the zygote cannot fork: {reply['error']}")
                    return reply
                if not self._collector.drain(number):
                    poller.unregister(number)
            if self._collector.over and not told:
                told = True
                self._control.send(b"K", socket.MSG_NOSIGNAL)

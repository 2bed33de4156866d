"""A backend on bubblewrap: a fresh interpreter for each run, in namespaces, behind the same seccomp filter.

About ten times slower than zygotes. For machines without Landlock where bubblewrap works.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from signal import SIGXCPU

from reward.sandbox.collect import Collector, Outcome, sealed_file
from reward.sandbox.judge import judge
from reward.sandbox.selftest import selftest
from reward.sandbox.slot import SECRETLESS, own_interpreter
from reward.sandbox.types import ExecutionResult, Limits, SandboxUnavailable, Settings, Status, Tier

_PARTS = ("syscalls", "filter", "landlock", "lockdown", "values", "program")
# Is told the numbers of the descriptors for the result, for `R`, and of what to do; puts them where a zygote would.
_PRELUDE = """
import json, os, sys
for number, target in zip(map(int, sys.argv[1:]), (1003, 1004, 1005)):
    os.dup2(number, target)
for target in (3, 4, 5):
    os.dup2(target + 1000, target)
os.closerange(6, 1 << 16)
with open(5) as file:
    bundle = json.load(file)
from types import ModuleType
for name in ("reward", "reward.sandbox", *bundle["parts"]):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = []
    if name in bundle["parts"]:
        setattr(sys.modules["reward.sandbox"], name.rpartition(".")[2], sys.modules[name])
        exec(compile(bundle["parts"][name], "<sandbox>", "exec", dont_inherit=True), sys.modules[name].__dict__)
lockdown, program = sys.modules["reward.sandbox.lockdown"], sys.modules["reward.sandbox.program"]
for name in [name for name in sys.modules if name.startswith("reward")]:
    del sys.modules[name]
ready = lockdown.confine_alone(bundle["limits"], threads=bundle["threads"])
program.pin_environment()
program.look_like_a_script()
program.fresh_streams()
program.fresh_interpreter()
box, main = [bundle["call"].encode(), bundle["source"].encode()], program.fresh_main()
del bundle, json, name, file
lockdown.install_filter(ready)
os.write(4, b"R")
os.close(4)
program.run_program(box, main)
"""


class BwrapBackend:
    """Runs each program in its own bubblewrap. Raises `SandboxUnavailable` where that does not work."""

    tier = Tier.CLOSED

    def __init__(self, settings: Settings) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailable(f"no bubblewrap on {sys.platform}: use Linux, or set remote_url")
        self.slots = settings.slots or min(len(os.sched_getaffinity(0)), 8)
        self._gate = threading.BoundedSemaphore(self.slots)
        self._bwrap = shutil.which("bwrap") or ""
        if not self._bwrap:
            raise SandboxUnavailable("backend bwrap: there is no bwrap in PATH; install bubblewrap, or use local")
        if settings.min_tier == "full":
            raise SandboxUnavailable("backend bwrap: reaches tier closed, not full; use local, or lower min_tier")
        if settings.extra_modules:
            raise SandboxUnavailable("backend bwrap: has no extra_modules; use local")
        self._python = settings.python or own_interpreter()
        folder = Path(__file__).parent
        self._parts = {f"reward.sandbox.{name}": (folder / f"{name}.py").read_text("utf-8") for name in _PARTS}
        self._command = [*self._arguments(), self._python, "-s", "-S", "-B", "-P", "-c", _PRELUDE]
        problem = selftest(lambda source: self.run(source.encode(), b"", b"", Limits()))
        if problem:
            raise SandboxUnavailable(f"backend bwrap: {problem}; allow user namespaces, or use local or remote")

    def _arguments(self) -> list[str]:
        """Of bwrap: nothing is shared but the interpreter and the system's libraries, read-only."""
        code = "import os, sys; print(os.path.dirname(os.__file__)); print(sys.version.split()[0])"
        asked = subprocess.run(
            [self._python, "-s", "-S", "-P", "-c", code], env=SECRETLESS, capture_output=True, text=True, check=False
        )
        if asked.returncode:
            raise SandboxUnavailable(f"backend bwrap: cannot start {self._python}: {asked.stderr.strip()[-200:]}")
        self._stdlib, version = asked.stdout.split("\n")[:2]
        self.version = f"bwrap {version}"
        helped = subprocess.run([self._bwrap, "--help"], env=SECRETLESS, capture_output=True, text=True, check=False)
        arguments = [self._bwrap, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
        arguments += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--chdir", "/"]
        if "--disable-userns" in helped.stdout:
            arguments.append("--disable-userns")
        real = os.path.realpath(self._python)
        lib = str(Path(real).parents[1] / "lib")
        for path in (self._python, real, lib, self._stdlib, "/lib", "/lib64", "/usr/lib", "/usr/lib64"):
            arguments += ["--ro-bind-try", path, path]
        for name in ("site-packages", "dist-packages"):
            if (Path(self._stdlib) / name).is_dir():
                arguments += ["--tmpfs", f"{self._stdlib}/{name}"]
        return arguments

    def run(self, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> ExecutionResult:
        """Run one program."""
        with self._gate:
            collector = Collector(limits)
            try:
                outcome = self._run(collector, source, stdin, call, limits)
            except OSError as error:
                return ExecutionResult.not_run(Status.SANDBOX_ERROR, f"bwrap: {error}")
            finally:
                collector.close()
        if outcome.ready != b"R" and outcome.stderr:
            return ExecutionResult.not_run(Status.SANDBOX_ERROR, outcome.stderr.decode("utf-8", "replace"))
        return judge(outcome, limits, self._stdlib)

    def _run(self, collector: Collector, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> Outcome:
        bundle = {
            "parts": self._parts,
            "source": source.decode(),
            "call": call.decode(),
            "limits": asdict(limits),
            # The kernel does not count root's threads, whatever the namespace calls it.
            "threads": os.geteuid() != 0,
        }
        started = time.monotonic()
        process = self._spawn(collector, stdin, json.dumps(bundle).encode())
        reason = self._follow(collector, process.pid, started + limits.wall_seconds)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        collector.drain_all()
        # bwrap passes its program's signal on as 128 + n.
        signal = process.returncode - 128
        if 0 < signal < 32:
            status = signal
            reason = reason or ("cpu" if signal == SIGXCPU else "")
        # Not every bwrap waits for its program's program, so these seconds are for statistics.
        cpu = min(usage.ru_utime + usage.ru_stime, limits.cpu_seconds * 0.999)
        return Outcome.of(collector, reason, status, cpu, time.monotonic() - started)

    def _spawn(self, collector: Collector, stdin: bytes, bundle: bytes) -> subprocess.Popen[bytes]:
        files = [sealed_file(stdin), sealed_file(bundle)]
        stdout, stderr, result, ready = collector.writers
        passed = (result, ready, files[1])
        try:
            return subprocess.Popen(
                [*self._command, *map(str, passed)],
                stdin=files[0],
                stdout=stdout,
                stderr=stderr,
                pass_fds=passed,
                env=SECRETLESS,  # its first process in the namespace keeps it, readable from inside
                cwd="/",
                start_new_session=True,
            )
        finally:
            collector.close_writers()
            for number in files:
                os.close(number)

    @staticmethod
    def _follow(collector: Collector, pid: int, deadline: float) -> str:
        """Drain until the process ends; kill it, and with it its namespace, over a cap or the deadline."""
        poller = select.poll()
        ended = os.pidfd_open(pid)
        reason = ""
        try:
            poller.register(ended, select.POLLIN)
            for reader in collector.readers:
                poller.register(reader, select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                if not reason and (left <= 0 or collector.over):
                    reason = "stop" if collector.over else "wall"
                    with suppress(ProcessLookupError):
                        os.kill(pid, 9)
                for number, _ in poller.poll(1000 if reason else max(1, int(left * 1000) + 1)):
                    if number == ended:
                        return reason
                    if not collector.drain(number):
                        poller.unregister(number)
        finally:
            os.close(ended)

    def describe(self) -> list[str]:
        """Lines for people."""
        return [
            f"tier: {self.tier} (bubblewrap: namespaces, read-only system libraries, seccomp)",
            f"interpreter: {self.version}, {self._python}",
            "CPU limit: in whole seconds",
            f"slots: {self.slots}",
        ]

    def close(self) -> None:
        """Nothing outlives a run."""

    def forget(self) -> None:
        """In a forked child."""
        self._gate = threading.BoundedSemaphore(self.slots)

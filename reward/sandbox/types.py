"""What goes into the sandbox and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from math import isfinite

UNSAFE = "i-understand-programs-run-unconfined"
BACKENDS = ("auto", "local", "bwrap", "remote")
_MB = 1024 * 1024


class SandboxUnavailable(RuntimeError):  # noqa: N818 (the name is part of the interface)
    """This machine cannot confine programs: one line with the missing feature and the ways out."""


class Status(StrEnum):
    """How one run of a program ended."""

    OK = "ok"
    """Exit code 0, no limit hit. The only status whose output may be compared."""
    ERROR = "error"
    """The program ended with another exit code: an uncaught exception, `sys.exit(3)`, a syntax error."""
    TIMEOUT = "timeout"
    """Out of CPU time, or of wall time."""
    MEMORY = "memory"
    """An uncaught `MemoryError`."""
    OUTPUT_LIMIT = "output_limit"
    """More bytes than allowed on stdout, stderr or the result channel."""
    KILLED = "killed"
    """Ended by a signal: a crash of the interpreter, `os.abort()`, or a forbidden way into the kernel."""
    INVALID_SOURCE = "invalid_source"
    """Not run at all: the source is too long or is not Unicode text."""
    SANDBOX_ERROR = "sandbox_error"
    """The sandbox itself failed. Says nothing about the program: never a reward of 0."""


class Tier(StrEnum):
    """What stands between a program and the machine, best first."""

    FULL = "full"
    """Landlock and seccomp: no file but the standard library can be read."""
    CLOSED = "closed"
    """seccomp alone: no file can be opened at all, so only preloaded modules can be imported."""
    REMOTE = "remote"
    """Another machine runs the programs; how well it confines them is its owner's business."""
    UNSAFE = "unsafe"
    """Resource limits only. Programs can read files, use the network and leave processes behind."""


@dataclass(frozen=True)
class Limits:
    """What one run may use. Over a limit, the run ends with the status that names it.

    Attributes:
        cpu_seconds: CPU time of all the program's threads. The limit that counts: it does not depend on load.
        wall_seconds: a backstop for programs that sleep. Keep it at 10 times the CPU limit or more.
        memory_mb: address space, the interpreter's own 30 MB included.
        max_stdout_bytes: over it, `output_limit`: a prefix is never compared.
        max_stderr_bytes: likewise.
        max_result_bytes: likewise, for the encoded value of `call`.
        max_source_bytes: over it, `invalid_source`; for source and `call` each.
        max_stdin_bytes: over it, `ValueError`: the input is the data set's, not the program's.
        max_open_files: file descriptors.
        stack_mb: the stack of the main thread, to start with.
        max_threads: the main thread included. 1 where the kernel cannot count them (see `Sandbox.describe`).
    """

    cpu_seconds: float = 2.0
    wall_seconds: float = 20.0
    memory_mb: int = 512
    max_stdout_bytes: int = 65536
    max_stderr_bytes: int = 8192
    max_result_bytes: int = 65536
    max_source_bytes: int = 65536
    max_stdin_bytes: int = _MB
    max_open_files: int = 64
    stack_mb: int = 64
    max_threads: int = 16

    def __post_init__(self) -> None:
        lowest = {"memory_mb": 64, "max_open_files": 16, "stack_mb": 1, "max_threads": 1}
        highest = {
            "cpu_seconds": 86400,
            "wall_seconds": 86400,
            "memory_mb": 1 << 24,
            "max_open_files": 200,
            "stack_mb": 4096,
        }
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int if field.type == "int" else (int, float)):
                raise ValueError(f"limits: {name} must be a number, not {value!r}")
            low, high = lowest.get(name, 0), highest.get(name, 1 << 40)
            if not isfinite(value) or value < low or value > high or (name.endswith("_seconds") and value == 0):
                raise ValueError(f"limits: {name} must be between {low} and {high}, not {value!r}")


@dataclass(frozen=True)
class Settings:
    """How programs are confined, and where.

    Attributes:
        backend: `auto` is `local` where that works, else `remote` if there is a `remote_url`.
        min_tier: `full` or `closed`: start with nothing worse.
        allow_unsafe: run unconfined where no tier is to be had; the value must be spelt out, see `UNSAFE`.
        slots: how many programs run at once; 0 is the number of cores, 8 at most.
        python: the interpreter that runs programs (3.11 or newer); empty is the one that runs this, outside its venv.
        remote_url: of a service that speaks SandboxFusion's `run_code`.
        recycle_after: runs after which a slot gets a fresh zygote.
        extra_modules: imported before programs start, e.g. `("numpy",)`; raise `memory_mb` with them.
    """

    backend: str = "auto"
    min_tier: str = "closed"
    allow_unsafe: str = ""
    slots: int = 0
    python: str = ""
    remote_url: str = ""
    recycle_after: int = 20000
    extra_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"sandbox: backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        if self.min_tier not in ("full", "closed"):
            raise ValueError(f"sandbox: min_tier must be full or closed, not {self.min_tier!r}")
        if self.allow_unsafe not in ("", UNSAFE):
            raise ValueError(f"sandbox: allow_unsafe must be empty or {UNSAFE!r}, not {self.allow_unsafe!r}")
        if not 0 <= self.slots <= 512:
            raise ValueError(f"sandbox: slots must be between 0 and 512, not {self.slots!r}")
        if self.recycle_after < 1:
            raise ValueError(f"sandbox: recycle_after must be 1 or more, not {self.recycle_after!r}")
        if self.backend == "remote" and not self.remote_url:
            raise ValueError("sandbox: backend remote needs a remote_url")


@dataclass(frozen=True)
class ExecutionResult:
    """What one run did. Compare outputs only where `status` is `OK`.

    Attributes:
        status: how it ended.
        stdout: what it printed. Bytes that are not UTF-8 are lone surrogates here, so no two outputs look the same.
        stderr: for people. For `sandbox_error`, what went wrong.
        exit_code: of the program; minus the signal that ended it; None if it was stopped or never ran.
        cpu_seconds: user and system time.
        wall_seconds: from fork to end.
        result: the encoded value of `call` (see `values.decode`); empty if there is none.
    """

    status: Status
    stdout: str
    stderr: str
    exit_code: int | None
    cpu_seconds: float
    wall_seconds: float
    result: str = ""

    @classmethod
    def not_run(cls, status: Status, why: str) -> ExecutionResult:
        """The result of a program that did not run."""
        return cls(status, "", why, None, 0.0, 0.0)


@dataclass(frozen=True)
class Run:
    """One run for `Sandbox.run_many`: the arguments of `Sandbox.run`."""

    source: str
    stdin: str = ""
    call: str = ""
    limits: Limits | None = None

"""From what came back of a run to what is reported: one status, by fixed rules."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from reward.sandbox.types import ExecutionResult, Status

if TYPE_CHECKING:
    from reward.sandbox.collect import Outcome
    from reward.sandbox.types import Limits


def judge(outcome: Outcome, limits: Limits, stdlib: str = "") -> ExecutionResult:
    """The result of one run.

    Rules, the first that fits: it never got to run; it wrote too much; it was out of time; a signal ended it; its
    exit code. CPU time decides by the measured seconds alone, so that it does not matter who was quicker, the program's
    end or the one who looks.
    """
    if outcome.ready != b"R":
        why = outcome.ready.removeprefix(b"E").decode("utf-8", "replace") or "the child ended before the program began"
        return ExecutionResult.not_run(Status.SANDBOX_ERROR, why)
    status, code = _status(outcome, limits)
    stderr = outcome.stderr.decode("utf-8", "backslashreplace")
    if stdlib:
        stderr = stderr.replace(f"{stdlib}/", "<stdlib>/")
    if status is Status.ERROR and ran_out_of_memory(code, stderr):
        status = Status.MEMORY
    return ExecutionResult(
        status,
        outcome.stdout.decode("utf-8", "surrogateescape"),
        stderr,
        code,
        outcome.cpu,
        outcome.wall,
        outcome.result.decode("ascii", "surrogateescape"),
    )


def _status(outcome: Outcome, limits: Limits) -> tuple[Status, int | None]:
    code = os.waitstatus_to_exitcode(outcome.status)
    if outcome.over:
        return Status.OUTPUT_LIMIT, None
    if outcome.reason in ("cpu", "wall") or outcome.cpu >= limits.cpu_seconds:
        return Status.TIMEOUT, None
    if code < 0:
        return Status.KILLED, code
    return (Status.ERROR if code else Status.OK), code


def ran_out_of_memory(code: int | None, stderr: str) -> bool:
    """Whether the program ended with an uncaught `MemoryError`: Python says so in the last line."""
    last = stderr.rstrip().rpartition("\n")[2]
    return code == 1 and (last == "MemoryError" or last.startswith("MemoryError:"))


def maybe_killed_from_outside(result: ExecutionResult) -> bool:
    """SIGKILL that nobody here sent: the kernel's out-of-memory killer, as likely as the program itself."""
    return result.status is Status.KILLED and result.exit_code == -signal.SIGKILL

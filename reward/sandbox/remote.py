"""A backend on another machine: any service that speaks SandboxFusion's `POST /run_code`."""

from __future__ import annotations

import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from reward.sandbox.judge import ran_out_of_memory
from reward.sandbox.types import ExecutionResult, Limits, SandboxUnavailable, Settings, Status, Tier

_GRACE_SECONDS = 10.0  # for the network, on top of the wall limit
# The service knows nothing of a result channel: the value comes after a mark, at the end of stdout.
_WRAPPED = """
def _call(encoder, source, call, mark):
    import sys
    encode = {{"__name__": "values"}}
    exec(encoder, encode)
    main = sys.modules["__main__"].__dict__
    exec(compile(source, "<program>", "exec"), main)
    value = encode["encode"](eval(call, main))
    sys.stdout.flush()
    sys.__stdout__.write(mark + value)
    sys.__stdout__.flush()
_call({encoder!r}, {source!r}, {call!r}, {mark!r})
"""


class RemoteBackend:
    """Sends programs over HTTP. What goes wrong on the way is a `sandbox_error`, never a verdict on the program."""

    tier = Tier.REMOTE

    def __init__(self, settings: Settings) -> None:
        if settings.extra_modules:
            raise SandboxUnavailable("backend remote: extra_modules are up to the service; leave them empty")
        if not settings.remote_url.startswith(("http://", "https://")):
            raise SandboxUnavailable(f"backend remote: {settings.remote_url!r} is not an http address")
        self.slots = settings.slots or 8
        self.version = settings.remote_url
        self._url = f"{settings.remote_url.rstrip('/')}/run_code"
        self._gate = threading.BoundedSemaphore(self.slots)
        self._encoder = (Path(__file__).parent / "values.py").read_text("utf-8")

    def run(self, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> ExecutionResult:
        """Run one program."""
        mark = f"\n{secrets.token_hex(16)}\n" if call else ""
        code = source.decode()
        if call:
            code = _WRAPPED.format(encoder=self._encoder, source=code, call=call.decode().strip(), mark=mark)
        request = {
            "code": code,
            "language": "python",
            "stdin": stdin.decode(),
            "run_timeout": limits.wall_seconds,
            "compile_timeout": limits.wall_seconds,
            "memory_limit_MB": limits.memory_mb,
            "files": {},
            "fetch_files": [],
        }
        try:
            with self._gate:
                answer = self._post(json.dumps(request).encode(), limits)
            return _read(answer, mark, limits)
        except (OSError, HTTPException, ValueError, TypeError, KeyError, AttributeError) as error:
            return ExecutionResult.not_run(Status.SANDBOX_ERROR, f"remote: {type(error).__name__}: {error}"[:500])

    def _post(self, body: bytes, limits: Limits) -> dict[str, Any]:
        cap = 8 * (limits.max_stdout_bytes + limits.max_stderr_bytes + limits.max_result_bytes) + (1 << 16)
        wait = limits.wall_seconds + _GRACE_SECONDS
        deadline = time.monotonic() + wait
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        parts = []
        with urllib.request.urlopen(request, timeout=wait) as response:
            while part := response.read1(1 << 16):
                parts.append(part)
                cap -= len(part)
                if cap < 0 or time.monotonic() > deadline:
                    raise ValueError("the answer is too long" if cap < 0 else "the answer takes too long")
        answer: dict[str, Any] = json.loads(b"".join(parts))
        return answer

    def describe(self) -> list[str]:
        """Lines for people."""
        return [
            f"tier: {self.tier} (another machine decides how programs are confined)",
            f"service: {self._url}",
            "CPU limit: not enforced, wall time is",
            f"slots: {self.slots}",
        ]

    def close(self) -> None:
        """Nothing is kept open."""

    def forget(self) -> None:
        """In a forked child."""
        self._gate = threading.BoundedSemaphore(self.slots)


def _read(answer: dict[str, Any], mark: str, limits: Limits) -> ExecutionResult:
    """The result that the service reports. Raises on anything that is not clearly one."""
    if answer["status"] not in ("Success", "Failed"):
        raise ValueError(f"the service says {str(answer['status'])[:100]}: {str(answer.get('message'))[:300]}")
    run = answer["run_result"]
    stdout, stderr, took = run["stdout"] or "", run["stderr"] or "", float(run["execution_time"] or 0)
    if not isinstance(stdout, str) or not isinstance(stderr, str):
        raise TypeError("the outputs are no text")
    result = ""
    if mark and mark in stdout:
        stdout, _, result = stdout.partition(mark)
    status, code = _status(run, stderr)
    over = (
        len(stdout.encode("utf-8", "surrogatepass")) > limits.max_stdout_bytes
        or len(stderr.encode("utf-8", "surrogatepass")) > limits.max_stderr_bytes
        or len(result) > limits.max_result_bytes
    )
    if over:
        status, code = Status.OUTPUT_LIMIT, None
    return ExecutionResult(status, stdout, stderr, code, 0.0, took, result)


def _status(run: dict[str, Any], stderr: str) -> tuple[Status, int | None]:
    if run["status"] == "TimeLimitExceeded":
        return Status.TIMEOUT, None
    code = run["return_code"]
    if run["status"] != "Finished" or not isinstance(code, int) or isinstance(code, bool):
        raise ValueError(f"the service says {str(run['status'])[:100]}, return code {str(code)[:20]}")
    if code < 0:
        return Status.KILLED, code
    if ran_out_of_memory(code, stderr):
        return Status.MEMORY, code
    return (Status.ERROR if code else Status.OK), code

"""The other backends: bubblewrap where it is installed, and a service over HTTP."""

from __future__ import annotations

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from reward.sandbox import Limits, Sandbox, SandboxUnavailable, Settings, Status, Tier
from reward.sandbox.values import decode

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def bwrap() -> Iterator[Sandbox]:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    sandbox = Sandbox(settings=Settings(backend="bwrap", slots=2), cache_size=0)
    try:
        sandbox.start()
    except SandboxUnavailable as error:
        pytest.skip(f"bubblewrap does not work here: {error}")
    with sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("source", "limits", "status"),
    [
        ("print(input())", Limits(), Status.OK),
        ("import sys; sys.exit(3)", Limits(), Status.ERROR),
        ("while True: pass", Limits(cpu_seconds=1), Status.TIMEOUT),
        ("import time; time.sleep(20)", Limits(wall_seconds=0.5), Status.TIMEOUT),
        ("while True: print('x' * 999)", Limits(), Status.OUTPUT_LIMIT),
        ("[0] * 10**10", Limits(), Status.MEMORY),
        ("import os; os.abort()", Limits(), Status.KILLED),
    ],
)
def test_bwrap_reaches_the_same_statuses(bwrap: Sandbox, source: str, limits: Limits, status: Status) -> None:
    result = bwrap.run(source, "in", limits=limits)
    assert (result.status, result.stdout[:9]) == (status, "in\n" if status is Status.OK else result.stdout[:9])


def test_bwrap_gives_values_and_says_what_it_is(bwrap: Sandbox) -> None:
    assert decode(bwrap.run("def f(x): return {x}", call="f(2)").result) == {2}
    assert bwrap.tier is Tier.CLOSED
    assert bwrap.describe()[0].startswith("tier: closed (bubblewrap")


def test_bwrap_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxUnavailable, match="there is no bwrap in PATH"):
        Sandbox(settings=Settings(backend="bwrap")).start()


class Service(ThreadingHTTPServer):
    """Answers every request with `answer`: a document, bytes, or a number for an HTTP error."""

    answer: Any = None
    delay = 0.0
    seen: dict[str, Any]
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.server.seen = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen["path"] = self.path
        time.sleep(self.server.delay)
        answer = self.server.answer
        self.send_response(answer if isinstance(answer, int) else 200)
        self.end_headers()
        if not isinstance(answer, int):
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def remote(service: Service, **options: Any) -> Sandbox:
    url = f"http://127.0.0.1:{service.server_address[1]}/"
    return Sandbox(settings=Settings(backend="remote", remote_url=url), cache_size=0, **options)


def ran(stdout: str = "", stderr: str = "", code: int | None = 0, status: str = "Finished") -> dict[str, Any]:
    run = {"status": status, "execution_time": 0.5, "return_code": code, "stdout": stdout, "stderr": stderr}
    return {"status": "Success" if code == 0 else "Failed", "message": "", "run_result": run}


def test_a_service_is_asked_for_what_was_meant(service: Service) -> None:
    service.answer = ran("42\n")
    result = remote(service).run("print(6*7)", "input", limits=Limits(wall_seconds=7, memory_mb=300))
    assert (result.status, result.stdout, result.exit_code, result.wall_seconds) == (Status.OK, "42\n", 0, 0.5)
    assert service.seen["path"] == "/run_code"
    assert (service.seen["code"], service.seen["stdin"], service.seen["language"]) == ("print(6*7)", "input", "python")
    assert (service.seen["run_timeout"], service.seen["memory_limit_MB"]) == (7, 300)
    assert remote(service).tier is Tier.REMOTE


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (ran(code=1, stderr="ValueError: x\n"), Status.ERROR),
        (ran(code=1, stderr="MemoryError\n"), Status.MEMORY),
        (ran(code=-9), Status.KILLED),
        (ran(code=None, status="TimeLimitExceeded"), Status.TIMEOUT),
        (ran("x" * 70000), Status.OUTPUT_LIMIT),
        (ran(stderr="x" * 9000), Status.OUTPUT_LIMIT),
        (500, Status.SANDBOX_ERROR),
        (504, Status.SANDBOX_ERROR),
        (404, Status.SANDBOX_ERROR),
        (b"junk", Status.SANDBOX_ERROR),
        (b"", Status.SANDBOX_ERROR),
        (b"[]", Status.SANDBOX_ERROR),
        (b"null", Status.SANDBOX_ERROR),
        ({}, Status.SANDBOX_ERROR),
        ({"status": "SandboxError", "message": "busy", "run_result": None}, Status.SANDBOX_ERROR),
        ({"status": "Success", "run_result": None}, Status.SANDBOX_ERROR),
        ({"status": "Success", "run_result": {"status": "Finished"}}, Status.SANDBOX_ERROR),
        (ran(code=None), Status.SANDBOX_ERROR),
        (ran(status="Error"), Status.SANDBOX_ERROR),
        (b"x" * 3_000_000, Status.SANDBOX_ERROR),
    ],
    ids=lambda value: str(value)[:60],
)
def test_only_a_clear_answer_is_a_verdict(service: Service, answer: Any, status: Status) -> None:
    service.answer = answer
    assert remote(service).run("pass").status is status


def test_a_service_that_is_slow_or_away_is_the_sandboxs_failure(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reward.sandbox.remote._GRACE_SECONDS", 0.1)
    service.answer, service.delay = ran(), 0.5
    slow = remote(service).run("pass", limits=Limits(wall_seconds=0.1))
    assert (slow.status, "timed out" in slow.stderr) == (Status.SANDBOX_ERROR, True)
    away = Sandbox(settings=Settings(backend="remote", remote_url="http://127.0.0.1:9"))
    assert away.run("pass").status is Status.SANDBOX_ERROR
    with pytest.raises(SandboxUnavailable, match="not an http address"):
        Sandbox(settings=Settings(backend="remote", remote_url="file:///etc/passwd")).start()


def test_a_value_travels_in_stdout_and_is_taken_out_of_it(service: Service, sandbox: Sandbox) -> None:
    service.answer = ran()
    there = remote(service)
    there.run("print('out')\ndef f(x): return [x]", call="f('a')")
    done = sandbox.run(service.seen["code"])  # a program, too
    service.answer = ran(done.stdout)
    mark = done.stdout.splitlines()[2]
    assert done.stdout == f'out\n\n{mark}\n["l",["a"]]'
    assert there.run("", call="1").result == ""  # another mark


def test_a_machine_without_a_sandbox_uses_the_service(service: Service) -> None:
    url = f"http://127.0.0.1:{service.server_address[1]}"
    with Sandbox(settings=Settings(remote_url=url), _seccomp=False) as sandbox:
        assert sandbox.tier is Tier.REMOTE

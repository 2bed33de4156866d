"""The small parts: settings that make sense, the cache, and the rules of the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reward.sandbox import ExecutionResult, Limits, Sandbox, Settings, Status
from reward.sandbox.cache import ResultCache, key_of
from reward.sandbox.collect import Outcome
from reward.sandbox.judge import judge


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"cpu_seconds": 0}, "cpu_seconds must be between 0 and 86400, not 0"),
        ({"cpu_seconds": float("nan")}, "cpu_seconds must be between"),
        ({"wall_seconds": -1}, "wall_seconds must be between"),
        ({"memory_mb": 1}, "memory_mb must be between 64 and"),
        ({"memory_mb": 512.5}, "memory_mb must be a number, not 512.5"),
        ({"max_threads": 0}, "max_threads must be between 1"),
        ({"max_stdout_bytes": True}, "max_stdout_bytes must be a number"),
        ({"stack_mb": "64"}, "stack_mb must be a number, not '64'"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Limits(**limits)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "docker"},
        {"backend": "remote"},
        {"min_tier": "unsafe"},
        {"allow_unsafe": "yes"},
        {"slots": -1},
        {"recycle_after": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"sandbox: .*{next(iter(settings))}|remote_url"):
        Settings(**settings)


def result(status: Status = Status.OK, stdout: str = "") -> ExecutionResult:
    return ExecutionResult(status, stdout, "", 0, 0.1, 0.1)


def test_the_cache_keeps_what_would_repeat_and_nothing_else() -> None:
    cache = ResultCache(100)
    for status in Status:
        cache.put(status.encode(), result(status))
    kept = {status for status in Status if cache.get(status.encode())}
    assert kept == {Status.OK, Status.ERROR, Status.INVALID_SOURCE, Status.MEMORY, Status.OUTPUT_LIMIT}


def test_the_cache_drops_what_was_not_asked_for_longest() -> None:
    cache = ResultCache(2)
    cache.put(b"1", result())
    cache.put(b"2", result())
    cache.get(b"1")
    cache.put(b"3", result())
    assert [bool(cache.get(key)) for key in (b"1", b"2", b"3")] == [True, False, True]
    small = ResultCache(100, max_bytes=10_000)
    for number in range(9):
        small.put(bytes([number]), result(stdout="x" * 1000))
    assert len(small) == 2
    none = ResultCache(0)
    none.put(b"1", result())
    assert len(none) == 0


def test_keys_tell_runs_apart() -> None:
    limits = Limits()
    keys = {
        key_of("ab", "c", "", limits, "full 3.11"),
        key_of("a", "bc", "", limits, "full 3.11"),
        key_of("ab", "", "c", limits, "full 3.11"),
        key_of("ab", "c", "", replace(limits, memory_mb=513), "full 3.11"),
        key_of("ab", "c", "", limits, "closed 3.11"),
        key_of("ab", "c", "", limits, "full 3.12"),
    }
    assert len(keys) == 6


def test_a_run_is_done_once() -> None:
    with Sandbox(settings=Settings(slots=1)) as sandbox:
        first = sandbox.run("import time; print(time.time_ns())")
        assert sandbox.run("import time; print(time.time_ns())") is first
        assert sandbox.run("import time; print(time.time_ns())", "x").stdout != first.stdout
        slow = Limits(wall_seconds=0.1)
        source = "import time; time.sleep(5)"
        assert sandbox.run(source, limits=slow) is not sandbox.run(source, limits=slow)


def outcome(**changes: Any) -> Outcome:
    plain = Outcome(b"R", b"", b"", b"", frozenset(), "", 0, 0.1, 0.2)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"status": 256}, Status.ERROR),
        ({"status": 256, "stderr": b"Traceback\nMemoryError\n"}, Status.MEMORY),
        ({"status": 256, "stderr": b"MemoryError\nValueError: MemoryError\n"}, Status.ERROR),
        ({"status": 0, "stderr": b"MemoryError\n"}, Status.OK),
        ({"status": 11}, Status.KILLED),
        ({"status": 9, "reason": "cpu"}, Status.TIMEOUT),
        ({"status": 9, "reason": "wall"}, Status.TIMEOUT),
        ({"status": 0, "cpu": 2.0}, Status.TIMEOUT),
        ({"status": 9, "cpu": 3.0}, Status.TIMEOUT),
        ({"status": 9, "reason": "stop", "over": frozenset({"stdout"})}, Status.OUTPUT_LIMIT),
        ({"status": 0, "over": frozenset({"result"})}, Status.OUTPUT_LIMIT),
        ({"ready": b""}, Status.SANDBOX_ERROR),
        ({"ready": b"EOSError: no", "status": 256}, Status.SANDBOX_ERROR),
        ({"ready": b"RR"}, Status.SANDBOX_ERROR),
    ],
)
def test_the_first_rule_that_fits_decides(changes: dict[str, Any], status: Status) -> None:
    assert judge(outcome(**changes), Limits()).status is status


def test_paths_of_the_machine_are_taken_out_of_errors() -> None:
    said = judge(outcome(stderr=b'File "/opt/py/lib/json/x.py"', stdout=b"/opt/py/lib/a"), Limits(), "/opt/py/lib")
    assert (said.stderr, said.stdout) == ('File "<stdlib>/json/x.py"', "/opt/py/lib/a")

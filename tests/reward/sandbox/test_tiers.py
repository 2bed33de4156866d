"""Which tier a machine gets, and that each holds: with and without Landlock, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward.sandbox import Limits, Sandbox, SandboxUnavailable, Settings, Status, Tier
from reward.sandbox.selftest import HOSTILE, selftest
from reward.sandbox.types import UNSAFE, ExecutionResult
from tests.reward.sandbox.ordinary import USER, public_interpreter

HERE = Path(__file__).resolve().parent


def report(*, refused: str = "", user: int | None = None) -> list[list[str]]:
    """What a process with fewer rights finds for each of the two tiers."""
    interpreter = sys.executable if user is None else public_interpreter()
    command = [interpreter, "-W", "error", str(HERE / "restricted.py"), refused, str(HERE / "report_tiers.py")]
    env = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        cwd="/",
        timeout=120,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_the_best_tier_holds(sandbox: Sandbox) -> None:
    assert selftest(sandbox.run) == ""
    assert sandbox.tier in (Tier.FULL, Tier.CLOSED)
    assert sandbox.run("import wave, mailbox").status is (Status.OK if sandbox.tier is Tier.FULL else Status.ERROR)


def test_the_closed_tier_holds_and_has_what_programs_use(closed: Sandbox) -> None:
    assert closed.tier is Tier.CLOSED
    assert selftest(closed.run) == ""
    source = (
        "import logging, csv, pathlib, difflib, uuid, tempfile, asyncio, unittest, sqlite3, xml.etree.ElementTree, "
        "concurrent.futures, zoneinfo, argparse, bz2, lzma, gzip, email, subprocess, multiprocessing\n"
        "from datetime import datetime\n"
        "print(datetime.strptime('2020', '%Y').year, 'ß'.encode('cp1252'), 'a'.encode('idna'))"
    )
    assert closed.run(source).stdout == "2020 b'\\xdf' b'a'\n"
    missing = closed.run("import mailbox")
    assert missing.stderr.endswith("ModuleNotFoundError: No module named 'mailbox'\n")


def test_people_are_told(sandbox: Sandbox, closed: Sandbox) -> None:
    lines = closed.describe()
    assert lines[0] == "tier: closed (full: switched off)"
    assert "Landlock: not used" in lines
    assert any(line.startswith("imports: not available: ") and "mailbox" in line for line in lines)
    assert "slots: 2" in sandbox.describe()
    assert all("\n" not in line for line in sandbox.describe())


def test_a_program_that_is_not_contained_is_noticed() -> None:
    def run(source: str) -> ExecutionResult:
        said = "42\n" if "6 * 7" in source else "not refused: fork\n" if "fork" in source else ""
        return ExecutionResult(Status.OK, said, "", 0, 0.0, 0.0)

    assert selftest(run) == "a program that starts processes was not contained (ok): not refused: fork"
    assert len(HOSTILE) >= 8


def test_no_seccomp_no_sandbox() -> None:
    with pytest.raises(SandboxUnavailable, match="full: switched off; closed: switched off"):
        Sandbox(_seccomp=False).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change users")
def test_an_ordinary_user_is_as_safe() -> None:
    full, closed = report(user=USER)
    assert full[:3] == ["full", "", "ok"]
    assert closed[:3] == ["closed", "", "ok"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the outer filter is for x86-64")
def test_an_old_container_gets_the_closed_tier() -> None:
    for found in report(refused="landlock_create_ruleset,unshare,personality,chroot"):
        assert found[:4] == ["closed", "", "ok", "1\n" if os.geteuid() == 0 else ""]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change users")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the outer filter is for x86-64")
def test_a_user_without_namespaces_goes_without_threads() -> None:
    full, closed = report(refused="unshare,personality", user=USER)
    assert full[:4] == ["full", "", "ok", ""]
    assert closed[:4] == ["closed", "", "ok", ""]
    assert "threads: not allowed: the kernel cannot count them here" in full[4]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the outer filter is for x86-64")
def test_where_seccomp_is_refused_nothing_runs() -> None:
    for (found,) in report(refused="seccomp"):
        assert found.startswith("unavailable: programs cannot be confined here (full: ")
        assert "set remote_url" in found
        assert "allow_unsafe" in found
        assert "\n" not in found


def test_unconfined_only_on_request_and_never_in_silence() -> None:
    settings = Settings(slots=1, allow_unsafe=UNSAFE)
    unconfined = Sandbox(settings=settings, cache_size=0, _seccomp=False)
    with pytest.warns(RuntimeWarning, match="programs run UNCONFINED"):
        unconfined.start()
    with unconfined:
        assert unconfined.tier is Tier.UNSAFE
        assert unconfined.run("print(6*7)").stdout == "42\n"
        assert unconfined.run("while 1: pass", limits=Limits(cpu_seconds=0.1)).status is Status.TIMEOUT
    with Sandbox(settings=settings) as sandbox:
        assert sandbox.tier is not Tier.UNSAFE


def test_min_tier_is_kept() -> None:
    with pytest.raises(SandboxUnavailable, match=r"\(full: switched off\)"):
        Sandbox(settings=Settings(min_tier="full"), _landlock=False).start()


def test_an_interpreter_that_is_missing_or_too_odd_is_named() -> None:
    for python in ("/nonexistent/python3", "/bin/false", "/bin/sh"):
        with pytest.raises(SandboxUnavailable, match=python):
            Sandbox(settings=Settings(python=python)).start()


def test_extra_modules_are_there_or_are_missed() -> None:
    with Sandbox(settings=Settings(slots=1, extra_modules=("iniconfig",)), cache_size=0) as sandbox:
        assert sandbox.run("import iniconfig; print(iniconfig.__name__)").stdout == "iniconfig\n"
    with pytest.raises(SandboxUnavailable, match="extra_modules: cannot import no_such_module"):
        Sandbox(settings=Settings(extra_modules=("no_such_module",))).start()


def test_where_nothing_can_be_imported_later_more_is_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward.sandbox.local.LAZY_IMPORT", "raise ImportError")
    with Sandbox(settings=Settings(slots=1), cache_size=0) as sandbox:
        if sandbox.tier is Tier.FULL:
            assert any("not available" in line and "mailbox" in line for line in sandbox.describe())
        assert sandbox.run("import sys; print('unittest.mock' in sys.modules)").stdout == "True\n"

"""Every hostile program is contained: as root and as an ordinary user, with and without Landlock."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reward.sandbox import Sandbox, SandboxUnavailable, Settings
from tests.reward.sandbox.hostile.corpus import CLASSES, CORPUS
from tests.reward.sandbox.ordinary import public_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTACK = Path(__file__).resolve().parent / "hostile" / "attack.py"
USER = 20000 + os.getpid() % 20000  # shares its processes with nobody


@pytest.fixture
def folder() -> Iterator[str]:
    """A place where everybody may write: not below a private one, as pytest's own are."""
    path = tempfile.mkdtemp(prefix="hostile-")
    Path(path).chmod(0o777)
    yield path
    shutil.rmtree(path)


def attack(tier: str, who: str, folder: str) -> dict[str, Any]:
    """What `attack.py` reports of each program."""
    user = USER if who == "user" and os.geteuid() == 0 else None
    if who == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    secret = f"canary-{secrets.token_hex(16)}"
    done = subprocess.run(
        [sys.executable if user is None else public_interpreter(), "-W", "error", str(ATTACK), tier, folder, secret],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOSTILE_SECRET": secret},
        timeout=600,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("tier", ["full", "closed"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_every_hostile_program_is_contained(tier: str, who: str, folder: str) -> None:
    try:
        with Sandbox(settings=Settings(slots=1, min_tier="full"), cache_size=0):
            pass
    except SandboxUnavailable as error:
        pytest.skip(f"no Landlock on this machine: {error}")
    report = attack(tier, who, folder)
    assert {name: each["problems"] for name, each in report.items() if each["problems"]} == {}
    assert list(report) == [hostile.name for hostile in CORPUS]


def test_the_same_attacks_succeed_without_a_sandbox(folder: str) -> None:
    report = attack("none", "user", folder)
    assert [name for name, each in report.items() if not each["problems"]] == []
    assert len(report) >= 9


def test_there_are_enough_of_every_class() -> None:
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS) >= 150
    assert min(map(len, CLASSES.values())) >= 8

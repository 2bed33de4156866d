"""What the machine has and lacks, a line each, with what to do about it."""

from __future__ import annotations

import pytest

from latentpad import doctor
from latentpad.cli import main
from reward.sandbox import SandboxUnavailable, shared


def test_it_names_the_tier_that_contains_programs_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ok  sandbox: tier: {shared().tier}" in lines
    assert sum(line.startswith("ok  sandbox: ") for line in lines) >= 4
    assert [line for line in lines if "torch" in line]
    assert all(line[:4] in ("ok  ", "-   ") for line in lines)


def test_a_machine_without_a_sandbox_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise SandboxUnavailable("no seccomp here: use a newer kernel")

    monkeypatch.setattr("latentpad.doctor.shared", none)
    assert doctor.examine()[-1] == (False, "sandbox: no seccomp here: use a newer kernel")


def test_a_missing_package_comes_with_its_use_and_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentpad.doctor.find_spec", lambda _: None)
    assert (
        False,
        "trl is not installed: no supervised arms; to get it: pip install 'latentpad[trl]'",
    ) in doctor.examine()

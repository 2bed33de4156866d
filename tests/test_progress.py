"""Progress in a log file is plain lines: what, how far, how fast, how long still."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from latentpad import progress

if TYPE_CHECKING:
    import pytest


def test_a_log_file_gets_the_start_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stage("nye: supervised", total=4, done=1) as bar:
        bar.advance()
        bar.advance(2, note="loss 0.1")
    first, last = capsys.readouterr().err.splitlines()
    assert first == "nye: supervised: 1/4"
    assert last.startswith("nye: supervised: 4/4")
    assert last.endswith("loss 0.1")


def test_a_long_stage_says_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.stage("base: pretrain", total=100) as bar:
        bar.advance(40)
    assert re.search(r"40/100, 2.0/s, 30 s left", capsys.readouterr().err)


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with progress.stage("base: pretrain", total=2) as bar:
        bar.advance(2, note="loss 1.0")
    written = capsys.readouterr().err
    assert "2/2" in written
    assert "loss 1.0" in written

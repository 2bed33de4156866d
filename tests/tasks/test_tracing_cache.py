"""Traces between starts: made once, and again where what is on disk cannot be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentpad.tasks.tracing import cache as trace_cache
from latentpad.tasks.tracing.cache import default_folder, key_of, traces_of
from latentpad.tasks.tracing.execution import Program, Trace, trace_all

PROGRAMS = [Program("output = 1 + 1", "output == 2"), Program("output = 1 / 0")]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many programs were traced, a number each time."""
    found = []

    def counted(programs: Any) -> list[Trace]:
        found.append(len(programs))
        return trace_all(programs)

    monkeypatch.setattr(trace_cache, "trace_all", counted)
    return found


def test_traces_are_made_once_and_read_back_the_same(tmp_path: Path, made: list[int]) -> None:
    first = traces_of(PROGRAMS, tmp_path / "deep" / "cache")
    assert traces_of(PROGRAMS, tmp_path / "deep" / "cache") == first
    assert made == [2]
    assert [(t.end, t.value) for t in first] == [("ok", "2"), ("an exception", "")]
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\n", b"{}", None])
def test_a_damaged_file_is_made_again(
    tmp_path: Path, made: list[int], caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    first = traces_of(PROGRAMS, tmp_path)
    [file] = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"2"', b'"3"') if damage is None else damage)
    assert traces_of(PROGRAMS, tmp_path) == first
    assert made == [2, 2]
    assert "is damaged: making the traces again" in caplog.text
    assert file.read_bytes() == data


def test_a_folder_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, made: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    first = traces_of(PROGRAMS, tmp_path / "file" / "cache")
    assert traces_of(PROGRAMS, tmp_path / "file" / "cache") == first
    assert made == [2, 2]
    assert "they will be made again" in caplog.text


def test_the_name_follows_from_all_that_decides_the_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    base = key_of(PROGRAMS)
    assert base == key_of(list(PROGRAMS))
    assert len({base, key_of(PROGRAMS[:1]), key_of([PROGRAMS[0], Program("output = 1 / 0", "True")])}) == 3
    monkeypatch.setattr(trace_cache, "interpreter", lambda: "cpython 9.9.9")
    assert key_of(PROGRAMS) != base


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_folder() == Path("/elsewhere/latentpad/traces")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/someone")
    assert default_folder() == Path("/someone/.cache/latentpad/traces")

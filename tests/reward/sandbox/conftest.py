"""One sandbox for all tests that do not need their own: starting one costs more than a hundred runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reward.sandbox import Sandbox, SandboxUnavailable, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Two slots, no cache, the best tier there is."""
    started = Sandbox(settings=Settings(slots=2), cache_size=0)
    try:
        started.start()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    with started:
        yield started


@pytest.fixture(scope="session")
def closed() -> Iterator[Sandbox]:
    """The same without Landlock."""
    started = Sandbox(settings=Settings(slots=1), cache_size=0, _landlock=False)
    try:
        started.start()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    with started:
        yield started

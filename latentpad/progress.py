"""Progress for people: a bar with stage, rate and time left in a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_SECONDS = 10.0


class Bar(Protocol):
    """One stage under way."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """So much more is done; `note` is a short state such as `reward 0.93`."""
        ...

    def say(self, line: str) -> None:
        """Show a line that stays, such as an alarm."""
        ...


class _Plain:
    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._start = self._shown = time.monotonic()
        self._line("")

    def _line(self, note: str) -> None:
        seconds = time.monotonic() - self._start
        rate = (self._done - self._first) / seconds if seconds > 0.1 else 0.0
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate else ""
        pace = f", {rate:.1f}/s" if rate else ""
        line = f"{self._title}: {self._done}/{self._total}{pace}{left}{'  ' if note else ''}{note}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        if self._done >= self._total or time.monotonic() - self._shown > PLAIN_SECONDS:
            self._shown = time.monotonic()
            self._line(note)


class _Silent:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        pass


@contextmanager
def stage(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a stage of `total` units, `done` of them done before this start, for the time of the `with` block.

    Of several processes only the first shows it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield _Silent()
        return
    if not sys.stderr.isatty():
        yield _Plain(title, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done, rate="", note="")
        start = time.monotonic()

        class _Terminal:
            count = 0

            def advance(self, amount: int = 1, note: str = "") -> None:
                self.count += amount
                rate = self.count / max(time.monotonic() - start, 1e-9)
                progress.update(task, advance=amount, rate=f"{rate:.1f}/s", note=note)

            def say(self, line: str) -> None:
                progress.console.print(line, markup=False, highlight=False)

        yield _Terminal()

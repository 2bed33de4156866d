"""Which processes run on this machine, as `/proc` tells it; a process of another user shows only its name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process at the moment that it was seen.

    Attributes:
        pid: of the process.
        name: of its program, cut to 15 characters by the kernel.
        command: its whole command line.
        cwd: the folder that it works in; None where that is not ours to know.
    """

    pid: int
    name: str
    command: str
    cwd: Path | None

    def holds(self, file: os.stat_result) -> bool:
        """Whether it has this very file open, whatever that is called by now."""
        try:
            descriptors = list((PROC / str(self.pid) / "fd").iterdir())
        except OSError:
            return False
        return any(_same(descriptor, file) for descriptor in descriptors)


def _same(descriptor: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), file)
    except OSError:
        return False


def processes() -> Iterator[Process]:
    """Every process but this one; nothing where the system has no `/proc`."""
    for folder in PROC.iterdir() if PROC.is_dir() else ():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            name = (folder / "comm").read_text().strip()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has ended
            continue
        try:
            cwd = (folder / "cwd").readlink()
        except OSError:
            cwd = None
        yield Process(int(folder.name), name, command, cwd)

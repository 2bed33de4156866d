"""Ctrl-C, SIGTERM, a launcher that is gone: finish the step, leave a checkpoint, then stop."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Stop:
    """Whether a stop was asked for, or the launcher that started this process is gone."""

    def __init__(self) -> None:
        """Alone, nobody's end is a stop."""
        self.asked = False
        self._launchers = _launchers()

    @property
    def requested(self) -> bool:
        """Whether to leave a checkpoint and stop."""
        return self.asked or _launchers() != self._launchers


def _launchers() -> list[int]:
    """The processes that started this one as one of several: `deepspeed` is two of them.

    Told to stop, the first of the two just dies; its children would train on with nobody to hear of it.
    """
    if "WORLD_SIZE" not in os.environ:
        return []
    parent = os.getppid()
    if "CROSS_RANK" not in os.environ:
        return [parent]
    try:
        # The name, in brackets, may hold anything; after it come the state and the parent.
        status = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [parent]
    return [parent, int(status[1])]


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Within the block, the first SIGINT or SIGTERM asks for a stop; a second SIGINT interrupts at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

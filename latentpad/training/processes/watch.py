"""Threads in every process that hear when another one dies, hangs or fails, say which, and end their own."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

# Seconds without a sign of life after which a process is taken for dead. A killed one is noticed within this.
SILENCE = float(os.environ.get("LATENTPAD_SILENCE_SECONDS", "20"))
# Seconds of them that the main thread gets to end by itself after another process failed.
GRACE = 5.0
LEFT = "left"
_CODE = 3
_NOBODY_ANSWERS = "rank 0, or the launcher that holds the meeting point, is gone or hangs"


class Watch:
    """Beats in a store that all processes share, and listens for the others.

    A failure is written there by the one that fails; a kill is noticed by the silence after it. Either way the process
    group may be stuck in a collective operation that would wait for many minutes, so the process ends at once.

    Attributes:
        trouble: with whom there is trouble, in words; empty while all is well.
    """

    def __init__(self, store: Any, rank: int, size: int, who: str) -> None:
        """`store` is a connection of its own: one in use by the main thread would block."""
        self.trouble = ""
        self._store, self._rank, self._size, self._who = store, rank, size, who
        self._over = threading.Event()
        self._answered = time.monotonic()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._guard)]
        self._store.set(f"who/{rank}", who)
        self._store.set(f"beat/{rank}", "0")

    @staticmethod
    def patience() -> float:
        """Within so many seconds it is known who is gone."""
        return SILENCE + 2.0

    def start(self) -> None:
        """Begin to beat and to listen."""
        for thread in self._threads:
            thread.start()

    def explain(self, seconds: float) -> str:
        """Whose fault a broken connection is, once it is known; empty if nobody's within the time."""
        until = time.monotonic() + seconds
        while not self.trouble and time.monotonic() < until:
            time.sleep(0.05)
        return self.trouble

    def leave(self, how: str) -> None:
        """This process ends: in order (`LEFT`), or with an error in words. Waits a little for the others."""
        self._over.set()
        if self.trouble:  # nobody listens any more
            return
        for thread in self._threads:
            thread.join(GRACE)
        try:
            self._store.set(f"left/{self._rank}", how)
            others = [f"left/{rank}" for rank in range(self._size)]
            until = time.monotonic() + (SILENCE if how == LEFT else GRACE)
            while self._rank == 0 and time.monotonic() < until and not self._store.check(others):
                time.sleep(0.05)  # rank 0 may hold the store: the others have to read it first
        except RuntimeError:  # the store is gone, and with it whoever held it
            return

    def _listen(self) -> None:
        """Beat once a second, look at all others."""
        heard: dict[int, tuple[str, float]] = {}
        beats = 0
        while not self._over.wait(1.0):
            beats += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beats))
                self.trouble = self._trouble(heard)
            except RuntimeError:
                self.trouble = _NOBODY_ANSWERS
            self._answered = time.monotonic()
            if self.trouble:
                self._end_unless_over()
                return

    def _guard(self) -> None:
        """A store whose holder is frozen answers nothing, not even with an error."""
        while not self._over.wait(1.0):
            if not self.trouble and time.monotonic() - self._answered > SILENCE - GRACE:
                self.trouble = _NOBODY_ANSWERS
                self._end_unless_over()
                return

    def _trouble(self, heard: dict[int, tuple[str, float]]) -> str:
        now = time.monotonic()
        for rank in range(self._size):
            if rank == self._rank or not self._store.check([f"beat/{rank}"]):
                continue
            if self._store.check([f"left/{rank}"]):
                how = self._store.get(f"left/{rank}").decode()
                if how != LEFT:
                    return f"rank {rank} failed: {how}"
                continue
            beat = self._store.get(f"beat/{rank}").decode()
            if rank not in heard or heard[rank][0] != beat:
                heard[rank] = (beat, now)
            elif now - heard[rank][1] > SILENCE - GRACE:
                who = self._store.get(f"who/{rank}").decode()
                return f"{who} gave no sign of life for {now - heard[rank][1]:.0f} s: it was killed or hangs"
        return ""

    def _end_unless_over(self) -> None:
        """The main thread gets a moment to end in its own words."""
        if self._over.wait(GRACE):
            return
        line = f"{' '.join(self.trouble.split())}; {self._who} ends too; the same command goes on from the checkpoint"
        print(f"latentpad: {line}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(_CODE)

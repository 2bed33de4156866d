"""A thread in every process that hears when another one dies or fails, says which, and ends its own."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

# Seconds without a sign of life after which a process is taken for dead. A killed one is noticed within this.
SILENCE = float(os.environ.get("LATENTPAD_SILENCE_SECONDS", "20"))
# Seconds that the main thread gets to end by itself after another process failed.
_GRACE = 5.0
LEFT = "left"
_CODE = 3


class Watch(threading.Thread):
    """Beats in a store that all processes share, and listens for the others.

    A failure is written there by the one that fails; a kill is noticed by the silence after it. Either way the process
    group may be stuck in a collective operation that would wait for many minutes, so the process ends at once.
    """

    def __init__(self, store: Any, rank: int, size: int, who: str) -> None:
        """`store` is a connection of its own: one in use by the main thread would block."""
        super().__init__(daemon=True, name="watch")
        self._store, self._rank, self._size, self._who = store, rank, size, who
        self._over = threading.Event()
        self._store.set(f"who/{rank}", who)
        self._store.set(f"beat/{rank}", "0")

    def leave(self, how: str) -> None:
        """This process ends: in order (`LEFT`), or with an error in words. Waits a little for the others."""
        self._over.set()
        self.join()
        try:
            self._store.set(f"left/{self._rank}", how)
            others = [f"left/{rank}" for rank in range(self._size)]
            until = time.monotonic() + (SILENCE if how == LEFT else _GRACE)
            while self._rank == 0 and time.monotonic() < until and not self._store.check(others):
                time.sleep(0.05)  # rank 0 may hold the store: the others have to read it first
        except RuntimeError:  # the store is gone, and with it whoever held it
            return

    def run(self) -> None:
        """Beat once a second, look at all others."""
        heard: dict[int, tuple[str, float]] = {}
        beats = 0
        while not self._over.wait(1.0):
            beats += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beats))
                trouble = self._trouble(heard)
            except RuntimeError:
                trouble = "rank 0, or the launcher that holds the meeting point, is gone"
            if trouble and not self._over.wait(_GRACE):
                self._end(trouble)

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
            elif now - heard[rank][1] > SILENCE - _GRACE:
                who = self._store.get(f"who/{rank}").decode()
                return f"{who} gave no sign of life for {now - heard[rank][1]:.0f} s: it was killed or hangs"
        return ""

    def _end(self, trouble: str) -> None:
        line = f"latentpad: {' '.join(trouble.split())}; {self._who} ends too. The same command goes on from the last checkpoint."
        print(line, file=sys.stderr, flush=True)  # noqa: T201
        os._exit(_CODE)

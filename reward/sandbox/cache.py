"""Results of programs that have been run before."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import astuple
from typing import TYPE_CHECKING

from reward.sandbox.types import Status

if TYPE_CHECKING:
    from reward.sandbox.types import ExecutionResult, Limits

REPEATABLE = frozenset({Status.OK, Status.ERROR, Status.INVALID_SOURCE, Status.MEMORY, Status.OUTPUT_LIMIT})
"""Statuses that another run would have too. Time-outs depend on the machine, signals on whoever sends them."""
MAX_BYTES = 64 << 20


def key_of(source: str, stdin: str, call: str, limits: Limits, surroundings: str) -> bytes:
    """The name of a run: everything that decides its result. Unambiguous, since lengths are part of it."""
    digest = hashlib.sha256()
    for text in (source, stdin, call, repr(astuple(limits)), surroundings):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


class ResultCache:
    """The latest results, up to a number of entries and of bytes. Thread-safe; size 0 keeps nothing."""

    def __init__(self, size: int, max_bytes: int = MAX_BYTES) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, ExecutionResult] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def forget_lock(self) -> None:
        """In a forked child: another thread may have held it."""
        self._lock = threading.Lock()

    def get(self, key: bytes) -> ExecutionResult | None:
        """The result under that key, if it is still there."""
        with self._lock:
            result = self._entries.get(key)
            if result is not None:
                self._entries.move_to_end(key)
            return result

    def put(self, key: bytes, result: ExecutionResult) -> None:
        """Keep a result, if it is one that repeats, and drop the oldest ones that no longer fit."""
        if result.status not in REPEATABLE:
            return
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = result
            self._bytes += _weight(result)
            while self._entries and (len(self._entries) > self._size or self._bytes > self._max_bytes):
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= _weight(dropped)


def _weight(result: ExecutionResult) -> int:
    """Bytes, about: at most four for a character, and the rest."""
    return 4 * (len(result.stdout) + len(result.stderr) + len(result.result)) + 1000

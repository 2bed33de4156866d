"""What a sandbox needs from whatever runs its programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reward.sandbox.types import ExecutionResult, Limits, Tier


class Backend(Protocol):
    """Runs programs; thread-safe. Arguments have been checked already."""

    tier: Tier
    slots: int
    version: str
    """Of the interpreter and whatever else decides what a program prints: part of the cache's key."""

    def run(self, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> ExecutionResult:
        """Run one program."""
        ...

    def describe(self) -> list[str]:
        """Lines for people."""
        ...

    def close(self) -> None:
        """Stop everything that runs."""
        ...

    def forget(self) -> None:
        """In a forked child: what runs belongs to the parent, and locks may be held by threads that are not here."""
        ...

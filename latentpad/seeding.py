"""Every random draw is seeded by the names of what it draws, so that workers, restarts and resume change nothing."""

from __future__ import annotations

import hashlib
from random import Random


def name_of(*names: str | int) -> str:
    """One name from the parts: `run / task / split / step / problem / rollout`."""
    return "/".join(str(name) for name in names)


def seed_of(*names: str | int) -> int:
    """A 63-bit seed from the names of what is drawn. Neighbouring names give unrelated seeds.

    >>> seed_of("run", 0) == seed_of("run", 0), seed_of("run", 0) == seed_of("run", 1)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(name_of(*names).encode()).digest()[:8], "big") >> 1


def rng_of(*names: str | int) -> Random:
    """A generator of its own for the names of what is drawn."""
    return Random(seed_of(*names))

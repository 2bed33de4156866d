"""All hostile programs."""

from __future__ import annotations

from tests.reward.sandbox.hostile import compiling, forging, kernel, reading, starving, surviving, writing

CLASSES = {
    "forging": forging.PROGRAMS,
    "reading": reading.PROGRAMS,
    "writing": writing.PROGRAMS,
    "surviving": surviving.PROGRAMS,
    "starving": starving.PROGRAMS,
    "compiling": compiling.PROGRAMS,
    "kernel": kernel.PROGRAMS,
}
CORPUS = [hostile for programs in CLASSES.values() for hostile in programs]

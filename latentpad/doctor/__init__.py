"""What this machine has and lacks for latentpad, a line each, with what to do about it."""

from __future__ import annotations

from latentpad.doctor.builds import build_lines
from latentpad.doctor.machine import machine_lines
from latentpad.doctor.packages import package_lines, ray_lines
from reward.sandbox import SandboxUnavailable, shared


def examine() -> list[tuple[bool, str]]:
    """Whether each thing is there, and a line that says so; what a missing one means and how to get it.

    Starts nothing that stays, builds nothing, and imports neither DeepSpeed nor Ray.
    """
    return [*machine_lines(), *package_lines(), *ray_lines(), *build_lines(), *_sandbox()]


def _sandbox() -> list[tuple[bool, str]]:
    """The tier that contains programs, why it is that one, and how fast a run is."""
    try:
        sandbox = shared()
    except SandboxUnavailable as error:
        return [(False, f"sandbox: {error}")]
    times = sorted(sandbox.run(f"print({i} * 7)").wall_seconds for i in range(25))
    speed = f"sandbox: a small program takes {times[12] * 1000:.1f} ms (median of 25)"
    return [*((True, f"sandbox: {line}") for line in sandbox.describe()), (True, speed)]

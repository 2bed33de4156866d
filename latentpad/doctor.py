"""What this machine has and lacks for latentpad, a line each, with what to do about it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from reward.sandbox import SandboxUnavailable, shared

# What each optional package is for, and how to get it.
_OPTIONAL = {
    "trl": ("supervised arms", "pip install 'latentpad[trl]'"),
    "datasets": ("supervised arms, data sets from the hub", "pip install 'latentpad[trl]'"),
    "math_verify": ("the grader 'math'", "pip install 'latentpad[maths]'"),
    "reasoning_gym": ("the task 'reasoning_gym'", "pip install 'latentpad[gym]'"),
}
_CORE = ("latentpad", "torch", "transformers", "tokenizers", "peft")


def examine() -> list[tuple[bool, str]]:
    """Whether each thing is there, and a line that says so; what a missing one means and how to get it."""
    lines = [(True, f"python {platform.python_version()} on {platform.system()} {platform.machine()}"), _machine()]
    lines += [(True, f"{name} {version(name)}") for name in _CORE]
    for name, (use, fix) in _OPTIONAL.items():
        lines.append(_package(name, use, fix))
    return [*lines, *_sandbox()]


def _machine() -> tuple[bool, str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return True, f"{cores} cores, {memory:.0f} GB memory, {', '.join(gpus) or 'no GPU'}"


def _package(name: str, use: str, fix: str) -> tuple[bool, str]:
    if find_spec(name) is None:
        return False, f"{name} is not installed: no {use}; to get it: {fix}"
    try:
        return True, f"{name} {version(name)}: {use}"
    except PackageNotFoundError:
        return True, f"{name}: {use}"


def _sandbox() -> list[tuple[bool, str]]:
    """The tier that contains programs, why it is that one, and how fast a run is."""
    try:
        sandbox = shared()
    except SandboxUnavailable as error:
        return [(False, f"sandbox: {error}")]
    times = sorted(sandbox.run(f"print({i} * 7)").wall_seconds for i in range(25))
    speed = f"sandbox: a small program takes {times[12] * 1000:.1f} ms (median of 25)"
    return [*((True, f"sandbox: {line}") for line in sandbox.describe()), (True, speed)]

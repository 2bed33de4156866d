"""Which packages are installed, and what goes without those that are not."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from latentpad.doctor.processes import processes

_CORE = ("latentpad", "torch", "transformers", "tokenizers", "peft")
# What each optional package is for, and how to get it.
_OPTIONAL = {
    "trl": ("supervised arms", "pip install 'latentpad[trl]'"),
    "datasets": ("supervised arms, data sets from the hub", "pip install 'latentpad[trl]'"),
    "math_verify": ("the grader 'math'", "pip install 'latentpad[maths]'"),
    "reasoning_gym": ("the task 'reasoning_gym'", "pip install 'latentpad[gym]'"),
    "accelerate": ("start by 'accelerate launch'", "pip install accelerate"),
    "deepspeed": ("sharded training (ZeRO)", "pip install 'latentpad[deepspeed]'"),
    "ninja": ("building of DeepSpeed's extensions", "pip install 'latentpad[deepspeed]'"),
    "bitsandbytes": ("4-bit base weights, 8-bit optimizers", "pip install 'latentpad[bitsandbytes]'"),
    "ray": ("rollout workers on several processes and machines", "pip install 'latentpad[ray]'"),
    "vllm": ("rollouts by vLLM", "pip install 'latentpad[vllm]', on a CPU 'make test-vllm'"),
}


def package_lines() -> list[tuple[bool, str]]:
    """Python, the core packages and the optional ones with their versions."""
    lines = [(True, f"python {platform.python_version()} on {platform.system()} {platform.machine()}")]
    lines += [(True, f"{name} {version(name)}") for name in _CORE]
    return [*lines, *(_package(name, use, fix) for name, (use, fix) in _OPTIONAL.items())]


def _package(name: str, use: str, fix: str) -> tuple[bool, str]:
    if find_spec(name) is None:
        return False, f"{name} is not installed: no {use}; to get it: {fix}"
    try:
        return True, f"{name} {version(name)}: {use}"
    except PackageNotFoundError:
        return True, f"{name}: {use}"


def ray_lines() -> list[tuple[bool, str]]:
    """Whether a Ray node runs on this machine; none is started, none is asked."""
    if find_spec("ray") is None:
        return []
    address = os.environ.get("RAY_ADDRESS")
    named = f"RAY_ADDRESS is {address}" if address else "RAY_ADDRESS is not set"
    running = [process for process in processes() if process.name in ("gcs_server", "raylet")]
    if not running:
        return [(True, f"ray: no node runs on this machine, {named}: a run that asks for Ray starts its own")]
    kind = "a head node" if any(process.name == "gcs_server" for process in running) else "a worker node"
    return [(True, f"ray: {kind} runs on this machine (process {running[0].pid}), {named}")]

"""Processor, memory, GPUs, disk and threads."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
_LITTLE_DISK = 5 * GIB
_LITTLE_SHARED_MEMORY = 256 * 2**20
_NO_LIMIT = 2**60  # what control groups of version 1 say where there is none is above this
# Instructions by which a CPU multiplies bfloat16, as Linux names them.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process may use, in bytes.

    Attributes:
        total: of the machine, or of the control group (container) if that allows less.
        free: what can be taken now without swapping.
        limited: whether a control group allows less than the machine has.
    """

    total: int
    free: int
    limited: bool


def memory(root: Path = Path("/")) -> Memory:
    """The host's memory; limits of control groups, versions 1 and 2, are respected, those of groups above too."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    try:
        found = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
        total, free = (int(found[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):  # no Linux: the total is all that is known
        pass
    whole = total
    for limit, used in _group_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return Memory(total, free, total < whole)


def _group_limits(root: Path) -> list[tuple[int, int]]:
    """Limit and what is used of it, page cache that can be dropped left out, of each group that this process is in."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            top, names, dropped = root / "sys/fs/cgroup", ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
            dropped = "total_inactive_file"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in [group, *group.parents]:
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and limit < _NO_LIMIT:
                found.append((limit, max(0, (used or 0) - _stat(folder / "memory.stat", dropped))))
            if folder == top:
                break
    return found


def _number(file: Path) -> int | None:
    """The number in a file; None for `max`, and where there is no such file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _stat(file: Path, name: str) -> int:
    try:
        return int(next(line.split()[1] for line in file.read_text().splitlines() if line.split()[0] == name))
    except (OSError, StopIteration, IndexError, ValueError):
        return 0


def cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_lines() -> list[tuple[bool, str]]:
    """A line each."""
    import torch

    have = memory()
    limit = " (limit of the container)" if have.limited else ""
    return [
        (True, f"{cores()} cores, {_cpu(torch.backends.cpu.get_cpu_capability())}"),
        *_bf16_of_cpu(),
        (True, f"memory: {have.total / GIB:.1f} GB{limit}, {have.free / GIB:.1f} GB free"),
        *_gpus(torch.cuda),
        _disk(),
        *_shared_memory(),
        _threads(torch.get_num_threads()),
    ]


def _cpu_info() -> dict[str, str]:
    """The first processor's entry of `/proc/cpuinfo`."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    return {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in first.splitlines())}


def _cpu(capability: str) -> str:
    info = _cpu_info()
    flags = info.get("flags", info.get("Features", "")).split()
    named = [flag for flag in ("avx2", "avx512f", *_BF16_FLAGS, "asimd", "sve") if flag in flags]
    return (
        f"{info.get('model name', 'CPU')} with {', '.join(named) or 'no vector instructions'}; torch uses {capability}"
    )


def _bf16_of_cpu() -> list[tuple[bool, str]]:
    flags = _cpu_info().get("flags", _cpu_info().get("Features", "")).split()
    if not flags or any(flag in flags for flag in _BF16_FLAGS):
        return []
    return [(False, "the CPU has no bfloat16 instructions: training.precision bf16 on it saves memory, not time")]


def _gpus(cuda: Any) -> list[tuple[bool, str]]:
    """Each GPU with memory, compute capability and whether it computes in bfloat16."""
    if not cuda.is_available():
        if Path("/proc/driver/nvidia/version").is_file():
            why = "the machine has an NVIDIA driver, but this torch cannot use it: install a build of torch for CUDA"
            return [(False, f"no GPU that torch can use: {why}")]
        return [(False, "no GPU: all runs on the CPU")]
    lines = []
    for i in range(cuda.device_count()):
        major, minor = cuda.get_device_capability(i)
        free, total = cuda.mem_get_info(i)
        bf16 = "bf16" if major >= 8 else "no bf16 (training.precision must stay fp32)"
        size = f"{total / GIB:.1f} GB, {free / GIB:.1f} GB free"
        lines.append((True, f"GPU {i}: {cuda.get_device_name(i)}, {size}, compute capability {major}.{minor}, {bf16}"))
    return lines


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(Path.cwd()).free
    line = f"disk: {free / GIB:.1f} GB free at the current folder"
    if free >= _LITTLE_DISK:
        return True, line
    return False, f"{line}: a checkpoint takes about 16 bytes a trained parameter, and the newest two are kept at times"


def _shared_memory() -> list[tuple[bool, str]]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return []
    free = shutil.disk_usage(folder).free
    line = f"shared memory: {free / GIB:.2f} GB free in /dev/shm"
    if free >= _LITTLE_SHARED_MEMORY:
        return [(True, line)]
    return [(False, f"{line}: too little for Ray and for several processes; in Docker give --shm-size=2g")]


def _threads(used: int) -> tuple[bool, str]:
    given = os.environ.get("OMP_NUM_THREADS")
    if given:
        return True, f"threads: OMP_NUM_THREADS is {given}, torch uses {used} in each process"
    return False, (
        f"threads: OMP_NUM_THREADS is not set, torch uses {used} in each process: where several processes share the "
        "machine they slow each other down; set it to cores / processes"
    )

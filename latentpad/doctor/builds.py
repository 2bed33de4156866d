"""DeepSpeed's extensions: C++ that torch compiles at the first start that needs it, and the locks left by a kill.

`torch.utils.cpp_extension.load` makes a file `lock` in the extension's folder, compiles, and removes it. A process that
is killed meanwhile leaves the lock, and every later start waits for it to go, for ever and without a word.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from latentpad.doctor.processes import PROC, processes

# The extensions that DeepSpeed may build for a run, and the builder's name there. None has to be: with offload torch's
# AdamW steps on the host, and `deepspeed_shm_comm`, which DeepSpeed would build at every start on a CPU, is switched
# off in `latentpad.training.processes.zero`, for gloo does its work.
EXTENSIONS = {"cpu_adam": ("DeepSpeed's own AdamW on the host (ZeRO-Offload)", "CPUAdamBuilder")}
STALE_AFTER_MINUTES = 10.0
CLEAR = "latentpad doctor --clear-locks"
_NOT_HERE = 4  # exit code of the child below
_BUILD = f"""
import sys
from deepspeed.accelerator import get_accelerator
builder = get_accelerator().create_op_builder(sys.argv[1])
if builder is None or type(builder).__name__ == "NotImplementedBuilder" or not builder.is_compatible(verbose=False):
    sys.exit({_NOT_HERE})
builder.load(verbose=False)
"""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock on the folder of an extension.

    Attributes:
        file: the lock.
        quiet_minutes: since it was made and since anything was last written beside it.
        builder: who may be at work there, in words; empty if nobody is.
    """

    file: Path
    quiet_minutes: float
    builder: str

    @property
    def stale(self) -> bool:
        """Whether whoever made it is gone."""
        return not self.builder and self.quiet_minutes >= STALE_AFTER_MINUTES

    def line(self) -> str:
        """What it means, and what to do."""
        what = f"extension {self.file.parent.name} is locked, nothing written for {self.quiet_minutes:.0f} minutes"
        if self.builder:
            return f"{what}: {self.builder}; starts that need it wait for that"
        if not self.stale:
            return f"{what}: too fresh to be called stale (before {STALE_AFTER_MINUTES:.0f} minutes); look again later"
        return f"{what}, and nobody builds it: every start that needs it would hang without a word; run '{CLEAR}'"


def extensions_folder() -> Path:
    """Where torch builds extensions, a folder each: as `torch.utils.cpp_extension` decides it."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given is not None:
        return Path(given)
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    hip, cuda = (str(text or "").replace(".", "") for text in (torch.version.hip, torch.version.cuda))
    device = f"rocm{hip}" if hip else f"cu{cuda}" if cuda else "cpu"
    return Path(get_default_build_root()) / f"py{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}_{device}"


def build_lines() -> list[tuple[bool, str]]:
    """Compiler, ninja, what is built, and locks; nothing if DeepSpeed is not installed. Builds nothing."""
    if find_spec("deepspeed") is None:
        return []
    folder = extensions_folder()
    lines = [_compiler(), _ninja(), (True, f"extensions are built in {folder}")]
    for name, (use, _) in EXTENSIONS.items():
        if is_built(folder, name):
            lines.append((True, f"extension {name} is built: {use}"))
        else:
            lines.append(
                (
                    True,
                    f"extension {name} is not built ({use}): no run needs it; where you use DeepSpeed for more, its "
                    "first start compiles it for a minute or two; to do that ahead: latentpad doctor --prebuild",
                )
            )
    return [*lines, *((not lock.stale, lock.line()) for lock in find_locks(folder))]


def _compiler() -> tuple[bool, str]:
    """The one that torch would take, and Python's headers."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is None:
        fix = "install one (Debian: apt-get install g++), or name it in CXX"
        return False, f"no C++ compiler ({name}): DeepSpeed cannot build its extensions; {fix}"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return False, "Python.h is missing: no extension can be built; install Python's headers (Debian: python3-dev)"
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    return True, f"C++ compiler: {said[0] if said else name}"


def _ninja() -> tuple[bool, str]:
    path = shutil.which("ninja")
    if path is not None:
        return True, "ninja is on the PATH"
    fix = "activate the environment that holds it" if find_spec("ninja") else "pip install ninja"
    return False, f"ninja is not on the PATH: DeepSpeed cannot build its extensions; {fix}"


def is_built(folder: Path, name: str) -> bool:
    """Whether the extension is in the extensions' folder, or came with DeepSpeed's own installation."""
    if any((folder / name).glob(f"{name}*.so")):
        return True
    spec = find_spec("deepspeed")
    places = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    return any(next(place.glob(f"ops/*/{name}_op*.so"), None) for place in places)


def find_locks(folder: Path) -> list[Lock]:
    """The locks in the extensions' folder."""
    files = sorted(folder.glob("*/lock")) if folder.is_dir() else []
    found = (_look(file) for file in files if file.is_file() and not file.is_symlink())
    return [lock for lock, _ in filter(None, found)]


def _look(file: Path) -> tuple[Lock, os.stat_result] | None:
    """A lock and the identity of its file; None if it is gone."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return None
    return Lock(file, _quiet_minutes(file), _builder(file.parent, found)), found


def _quiet_minutes(lock: Path) -> float:
    """A clock that is ahead makes a lock fresh, never stale."""
    times = []
    for file in lock.parent.iterdir():
        try:
            times.append(file.lstat().st_mtime)
        except FileNotFoundError:
            continue
    return (time.time() - max(times, default=time.time())) / 60


def _builder(folder: Path, lock: os.stat_result) -> str:
    """Who may be building there, in words; empty if it is certain that nobody on this machine is.

    The process that made the lock keeps it open; ninja and the compilers work in the folder or name it.
    """
    if not PROC.is_dir():
        return "this system does not tell which processes run, so somebody may be building it"
    if lock.st_uid != os.getuid():
        return f"it belongs to another user ({lock.st_uid}), whose processes cannot be looked into"
    places = {str(folder.absolute()), str(folder.resolve())}
    for process in processes():
        if process.holds(lock):
            return f"process {process.pid} ({process.name}) holds it"
        cwd = str(process.cwd or "")
        if any(f"{cwd}/".startswith(f"{place}/") for place in places):
            return f"process {process.pid} ({process.name}) works in its folder"
        if any(place in process.command for place in places):
            return f"process {process.pid} ({process.name}) names its folder"
    return ""


def clear_locks(folder: Path) -> list[tuple[bool, str]]:
    """Remove the locks whose makers are gone, and nothing else; a line for each lock.

    A lock is removed only if nothing was written beside it for `STALE_AFTER_MINUTES` and no process on this machine
    has it open, works in its folder or names it. It is moved aside first and looked at again, so that a lock that was
    made in between is put back. Of builders on other machines that share the folder only those minutes are known.
    """
    lines = []
    for lock in find_locks(folder):
        if lock.stale:
            lines.append(_clear(lock))
        else:
            lines.append((False, f"left alone: {lock.line()}"))
    return lines or [(True, f"no locks in {folder}")]


def _clear(lock: Lock) -> tuple[bool, str]:
    name, before = lock.file.parent.name, _look(lock.file)
    if before is None or not before[0].stale:
        return True, f"the lock of {name} changed hands meanwhile: left alone"
    aside = lock.file.with_name(f"lock.aside-{os.getpid()}")
    try:
        lock.file.rename(aside)
    except FileNotFoundError:
        return True, f"the lock of {name} went by itself"
    moved = aside.lstat()
    if os.path.samestat(moved, before[1]) and not _builder(aside.parent, moved):
        aside.unlink()
        return (
            True,
            f"removed the lock of {name}: nothing written for {lock.quiet_minutes:.0f} minutes, nobody builds it",
        )
    with suppress(FileExistsError):
        os.link(aside, lock.file)  # unlike a rename it never replaces a newer one
    aside.unlink()
    return False, f"left alone: the lock of {name} was taken anew at that very moment"


def prebuild(folder: Path) -> list[tuple[bool, str]]:
    """Build the extensions that a run can need, each in a process of its own; a line each, with seconds."""
    if find_spec("deepspeed") is None:
        return [
            (
                False,
                "DeepSpeed is not installed: there is nothing to build; to get it: pip install 'latentpad[deepspeed]'",
            )
        ]
    return [_prebuild(folder, name, builder) for name, (_, builder) in EXTENSIONS.items()]


def _prebuild(folder: Path, name: str, builder: str) -> tuple[bool, str]:
    stale = [lock for lock in find_locks(folder) if lock.stale and lock.file.parent.name == name]
    if stale:
        return False, f"{name}: not built: {stale[0].line()}"
    built, start = is_built(folder, name), time.monotonic()
    # ninja comes with the environment, which need not be activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-c", _BUILD, builder]
    result = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if result.returncode == _NOT_HERE:
        return True, f"{name}: not for this device"
    if result.returncode != 0:
        said = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        return False, f"{name}: failed after {seconds:.0f} s: {said[-1] if said else f'exit code {result.returncode}'}"
    return True, f"{name}: was built already, loads" if built else f"{name}: built in {seconds:.0f} s"

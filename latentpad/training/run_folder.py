"""What a run leaves on disk while it trains: recipe, environment, metrics, TensorBoard events, counters."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import dump
from latentpad.recipe.schema import Recipe
from latentpad.training.checkpoint import clear_leftovers, newest_checkpoint, verify

_PACKAGES = (
    *("latentpad", "torch", "transformers", "tokenizers", "peft", "trl", "accelerate", "deepspeed", "bitsandbytes"),
    *("ray", "vllm", "numpy", "scipy"),
)


@dataclass
class Counters:
    """What a run has cost so far; carried through checkpoints.

    Attributes:
        samples: documents, examples or rollouts used.
        tokens_generated: tokens sampled while training.
        tokens_trained: tokens that had a weight in a loss.
        seconds: wall time spent in training, over all starts.
    """

    samples: int = 0
    tokens_generated: int = 0
    tokens_trained: int = 0
    seconds: float = 0.0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the code that runs, with `+` where files differ from it; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment(sandbox: str) -> dict[str, Any]:
    """Versions, hardware and what contains programs, for `environment.json` and the report."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 2**30),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "sandbox": sandbox,
        "git_commit": git_commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def append_line(file: Path, record: dict[str, Any]) -> None:
    """One JSON object a line; a kill after this returns does not lose it."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def write_text(file: Path, text: str) -> None:
    """Whole or not at all."""
    aside = file.with_name(f".{file.name}.writing")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def write_json(file: Path, data: object) -> None:
    """Whole or not at all."""
    write_text(file, json.dumps(data, indent=1) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time trains in a folder; the lock goes with the process, however it ends.

    Raises:
        RecipeError: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecipeError(f"{path}: another process trains in it: wait for it, or use another --out") from error
        yield


class RunFolder:
    """A run's folder, new or taken up again.

    Attributes:
        path: the folder.
        key: content key of the recipe.
        resume: step and path of the checkpoint to go on from, or None.
        after_step: called by every process with the number of each step that is done, its line written.
    """

    def __init__(self, path: Path, recipe: Recipe, key: str, *, sandbox: str = "", writes: bool = True) -> None:
        """Open the folder; `sandbox` says what contains the programs of this run. Only one process `writes`.

        Raises:
            RecipeError: it holds a run of another recipe, or a torn checkpoint.
        """
        self.path, self.key, self._writes = path, key, writes
        self._writer: Any = None
        self.after_step: Callable[[int], None] = lambda _step: None
        marker = path / "key.txt"
        if marker.is_file() and marker.read_text().strip() != key:
            raise RecipeError(
                f"{path}: holds a run of another recipe (see its recipe.yaml): use another --out, or delete it"
            )
        self.resume = newest_checkpoint(self.checkpoints)
        if self.resume is not None:
            verify(self.resume[1], key=key)
        if not writes:
            return
        path.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.checkpoints)
        write_text(marker, key + "\n")
        write_text(path / "recipe.yaml", dump(recipe))
        write_json(path / "environment.json", environment(sandbox))
        self.cut_metrics(0 if self.resume is None else self.resume[0])

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    def note_proofs(self, lines: list[str]) -> None:
        """Write down what was proved before training."""
        if self._writes:
            write_text(self.path / "proofs.txt", "".join(f"{line}\n" for line in lines))

    def note_effect(self, lines: list[str]) -> None:
        """Write down what is in effect: processes, strategy, precision, what is trained."""
        if self._writes:
            file = self.path / "environment.json"
            write_json(file, json.loads(file.read_text()) | {"in_effect": lines})

    def note_rollouts(self, record: dict[str, Any]) -> None:
        """Write down what happened to a rollout worker, one JSON object a line in `rollouts.jsonl`."""
        if self._writes:
            append_line(self.path / "rollouts.jsonl", {"time": round(time.time(), 3), **record})

    @property
    def alarms(self) -> Path:
        """One JSON object an alarm; those of steps that were rolled back stay."""
        return self.path / "alarms.jsonl"

    def alarm(self, step: int, name: str, message: str, action: str) -> bool:
        """Write an alarm down; false if it stands there already, from before a kill or a roll back."""
        if not self._writes:
            return False
        record = {"step": step, "alarm": name, "message": message, "action": action}
        if self.alarms.is_file() and json.dumps(record) in self.alarms.read_text(encoding="utf-8").splitlines():
            return False
        append_line(self.alarms, record)
        return True

    def cut_metrics(self, step: int) -> None:
        """Drop what was written after a checkpoint: those steps are taken again."""
        self.close()
        if not self._writes or not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # a line cut short by a kill
                break
            if record["step"] > step:
                break
            kept.append(line + "\n")
        write_text(self.metrics, "".join(kept))

    def log(self, step: int, values: dict[str, float], counters: Counters, timing: dict[str, float]) -> None:
        """Add a step to `metrics.jsonl` and TensorBoard. What may differ between equal runs is under `timing`."""
        if not self._writes:
            return
        counted = {name: value for name, value in asdict(counters).items() if name != "seconds"}
        record = {"step": step, **values, **counted, "timing": {**timing, "total_seconds": counters.seconds}}
        append_line(self.metrics, record)
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is buffered."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

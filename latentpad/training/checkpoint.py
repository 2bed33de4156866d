"""Checkpoints that are whole or absent: written aside, hashed, made durable, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentpad.training.processes.world import World

MANIFEST = "manifest.json"
STATE = "training_state.pt"
_ASIDE = ".writing-"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_checkpoint(
    folder: Path,
    step: int,
    fill: Callable[[Path], None],
    *,
    key: str,
    good: bool = True,
    keep: int = 1,
    world: World | None = None,
    pieces: Callable[[Path], None] | None = None,
) -> Path:
    """Write `folder/<step>`, whole or not at all, and drop all others but the newest `keep` good ones.

    All processes call it; rank 0 writes, but for the pieces.

    Args:
        folder: the run's `checkpoints`.
        step: optimizer steps taken.
        fill: writes the files into the folder that it is given.
        key: of the recipe; a checkpoint of another recipe is refused on resume.
        good: whether it is one to roll back to; kept in the manifest.
        keep: how many good ones to keep; this one stays in any case.
        world: the processes; None if this one is alone.
        pieces: writes what each process has of its own.
    """
    aside = folder / f"{_ASIDE}{step}"
    if world is None or world.leads:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        fill(aside)
    _wait(world)
    if pieces is not None:
        pieces(aside)
    _wait(world)
    if world is None or world.leads:
        _finish(folder, aside, step, key=key, good=good, keep=keep)
    _wait(world)
    return folder / str(step)


def _wait(world: World | None) -> None:
    if world is not None:
        world.barrier()


def _finish(folder: Path, aside: Path, step: int, *, key: str, good: bool, keep: int) -> None:
    """Hash what was written aside, make it durable, move it into place, drop what is old."""
    files = sorted(f for f in aside.rglob("*") if f.is_file())
    manifest = {"step": step, "key": key, "good": good, "files": {str(f.relative_to(aside)): _sha256(f) for f in files}}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for file in [*files, aside / MANIFEST, aside]:
        _sync(file)
    discard(folder, step)
    aside.rename(folder / str(step))
    _sync(folder)
    kept = [old for old in sorted(steps_in(folder)) if is_good(folder / str(old))]
    for old in set(steps_in(folder)) - {step, *kept[-keep:]}:
        discard(folder, old)


def discard(folder: Path, step: int) -> None:
    """Remove a checkpoint, which a kill cannot leave half removed; nothing happens if there is none."""
    aside = folder / f"{_ASIDE}discarded-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    if (folder / str(step)).is_dir():
        (folder / str(step)).rename(aside)
        shutil.rmtree(aside)


def is_good(checkpoint: Path) -> bool:
    """Whether the run was well when this checkpoint was written; of a torn one nobody knows."""
    try:
        return bool(json.loads((checkpoint / MANIFEST).read_text()).get("good", True))
    except (OSError, ValueError):
        return False


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint."""
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []


def newest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """The newest checkpoint of a run's `checkpoints`, or None. Reads only: the run may be under way."""
    steps = steps_in(folder)
    return (max(steps), folder / str(max(steps))) if steps else None


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed write left aside. For the one process that writes there."""
    for aside in folder.glob(f"{_ASIDE}*"):
        shutil.rmtree(aside)


def verify(checkpoint: Path, *, key: str | None = None) -> dict[str, Any]:
    """The manifest, after every file was found to be as it was written.

    Raises:
        RecipeError: torn, changed, or from another recipe.
    """
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
        written_for, files = manifest["key"], manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"{checkpoint}: not a whole checkpoint (no readable {MANIFEST}): delete it to go on"
        ) from error
    if key is not None and written_for != key:
        raise RecipeError(f"{checkpoint}: from another recipe (key {written_for}, this one {key}): use another --out")
    for name, digest in files.items():
        if not (checkpoint / name).is_file() or _sha256(checkpoint / name) != digest:
            raise RecipeError(
                f"{checkpoint}: {name} is not what was written (torn or changed): delete this checkpoint to go on"
            )
    return manifest

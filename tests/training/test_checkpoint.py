"""A checkpoint is whole or absent, whenever the process dies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.training.checkpoint import (
    MANIFEST,
    clear_leftovers,
    newest_checkpoint,
    steps_in,
    verify,
    write_checkpoint,
)
from tests.training import worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write(folder: Path, step: int, *, keep: int = 1, key: str = "recipe") -> Path:
    def fill(target: Path) -> None:
        (target / "weights").write_text(f"weights of {step}")
        (target / "adapter").mkdir()
        (target / "adapter" / "config").write_text("config")

    return write_checkpoint(folder, step, fill, key=key, keep=keep)


def test_what_was_written_is_found_and_verified(tmp_path: Path) -> None:
    written = write(tmp_path, 4)
    assert newest_checkpoint(tmp_path) == (4, written)
    manifest = verify(written, key="recipe")
    assert manifest["step"] == 4
    assert set(manifest["files"]) == {"weights", "adapter/config"}


def test_the_newest_is_the_highest_step_not_the_last_in_the_alphabet(tmp_path: Path) -> None:
    for step in (9, 10):
        write(tmp_path, step, keep=2)
    assert newest_checkpoint(tmp_path) == (10, tmp_path / "10")


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=keep)
    assert sorted(steps_in(tmp_path)) == left


def test_there_may_be_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "absent") is None


def change(folder: Path) -> None:
    (folder / "weights").write_text("weights of 5")


def cut(folder: Path) -> None:
    (folder / "weights").write_text("weights")


def lose(folder: Path) -> None:
    (folder / "adapter" / "config").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"step": 4, "ke')


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (change, "weights is not what was written"),
        (cut, "weights is not what was written"),
        (lose, "adapter/config is not what was written"),
        (lose_manifest, "not a whole checkpoint"),
        (cut_manifest, "not a whole checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], line: str) -> None:
    written = write(tmp_path, 4)
    damage(written)
    with pytest.raises(RecipeError, match=line) as refusal:
        verify(written, key="recipe")
    assert "\n" not in str(refusal.value)
    assert str(written) in str(refusal.value)


def test_a_checkpoint_of_another_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="from another recipe") as refusal:
        verify(write(tmp_path, 4, key="other"), key="recipe")
    assert "\n" not in str(refusal.value)


def test_a_fill_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    old = write(tmp_path, 4)

    def fill(target: Path) -> None:
        (target / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, 5, fill, key="recipe")
    assert newest_checkpoint(tmp_path) == (4, old)
    verify(old, key="recipe")


# From Python 3.12 on: a thread of another test's library may be alive. The child does nothing but write files.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_killed_at_any_moment_there_is_a_whole_checkpoint_and_leftovers_are_cleared(tmp_path: Path) -> None:
    found: list[int] = []
    for countdown in range(1, 100):
        folder = tmp_path / str(countdown)
        write(folder, 4)
        finished = not worker.dies_at(countdown, partial(write, folder, 6))
        newest = newest_checkpoint(folder)
        assert newest is not None
        verify(newest[1], key="recipe")
        found.append(newest[0])
        clear_leftovers(folder)
        write(folder, 8)
        assert [p.name for p in folder.iterdir()] == ["8"]
        verify(folder / "8", key="recipe")
        if finished:
            break
    assert finished
    assert len(found) > 10
    assert set(found) == {4, 6}
    assert found == sorted(found)

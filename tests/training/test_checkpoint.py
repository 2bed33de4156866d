"""A checkpoint is whole or absent, whenever the process dies."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentpad.cli import main
from latentpad.recipe.errors import RecipeError
from latentpad.training.checkpoint import (
    MANIFEST,
    STATE,
    clear_leftovers,
    is_good,
    newest_checkpoint,
    steps_in,
    verify,
    write_checkpoint,
)
from tests import tiny
from tests.training import runs, worker

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


# What a run is not taken up from: a real one, of PPO with an adapter and a critic of its own

STEPS = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a recipe on it, and its run, all but evaluated."""
    home = tmp_path_factory.mktemp("trained")
    shutil.copytree(runs.base(tmp_path_factory.getbasetemp()), home / "base")
    recipe = runs.write_rl(
        home / "base",
        home,
        model={"lora": tiny.LORA.model_dump()},
        training={"steps": STEPS, "checkpoint_every": 1},
        algorithm={"name": "ppo", "critic": {"kind": "model", "lora_rank": 2, "pretraining_steps": 1}},
        health={"action": "roll_back"},
    )
    assert worker.finish(worker.start(recipe, home / "run")) == 0
    (home / "run" / "done.json").unlink()
    return home


def newest(run: Path) -> Path:
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    return found[1]


def flip(file: Path, at: int) -> None:
    """Change one bit of the byte."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_one_bit_changed_in_any_file_of_a_real_checkpoint_is_refused_in_one_line(trained: Path) -> None:
    written = newest(trained / "run")
    verify(written)
    files = [file for file in written.rglob("*") if file.is_file() and file.name != MANIFEST]
    assert {STATE, "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {f.name for f in files}
    for file in files:
        kept = file.read_bytes()
        for at in (0, len(kept) // 2, len(kept) - 1):
            flip(file, at)
            with pytest.raises(RecipeError, match="is not what was written") as refusal:
                verify(written)
            assert "\n" not in str(refusal.value)
            assert str(file.relative_to(written)) in str(refusal.value)
            file.write_bytes(kept)
    verify(written)


def verdict(written: Path) -> dict[str, Any] | str:
    """The manifest, or why it is refused."""
    try:
        return verify(written, key="recipe")
    except RecipeError as error:
        return str(error)


def test_one_bit_changed_in_the_manifest_is_refused_or_changes_nothing_that_is_verified(tmp_path: Path) -> None:
    written = write(tmp_path, 4)
    kept = (written / MANIFEST).read_bytes()
    whole, refused = verify(written, key="recipe"), 0
    for at in range(len(kept)):
        flip(written / MANIFEST, at)
        told = verdict(written)
        if isinstance(told, str):
            assert "\n" not in told
            refused += 1
        else:
            assert (told["key"], told["files"]) == (whole["key"], whole["files"])
        (written / MANIFEST).write_bytes(kept)
    assert refused > 0.8 * len(kept)


def test_a_torn_older_checkpoint_is_not_good_and_does_not_stop_the_next_from_being_written(tmp_path: Path) -> None:
    cut_manifest(write(tmp_path, 4, keep=2))
    assert not is_good(tmp_path / "4")
    write(tmp_path, 5, keep=2)
    assert steps_in(tmp_path) == [5]


def seal(written: Path) -> None:
    """Make the manifest fit the files as they are now."""
    manifest = json.loads((written / MANIFEST).read_text())
    manifest["files"] = {n: hashlib.sha256((written / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (written / MANIFEST).write_text(json.dumps(manifest))


def change_state(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the training state and make the manifest fit."""
    file = newest(home / "run") / STATE
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)
    seal(file.parent)


def tear_state(home: Path) -> None:
    file = newest(home / "run") / STATE
    file.write_bytes(file.read_bytes()[:-100])


def shift_weights(file: Path) -> None:
    save_file({name: tensor + 0.01 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def exchange_adapter(home: Path) -> None:
    shift_weights(newest(home / "run") / "adapter_model.safetensors")


def exchange_base(home: Path) -> None:
    shift_weights(home / "base" / "model.safetensors")


def bring_from_another_recipe(home: Path) -> None:
    file = newest(home / "run") / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"key": "0123456789abcdef"}))


def change_recipe(home: Path) -> None:
    recipe = home / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("learning_rate: 0.003", "learning_rate: 0.004"))


def change_saved_weights(home: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        next(iter(state["weights"].values())).view(-1)[0] += 1

    change_state(home, change)


def lose_critic(home: Path) -> None:
    change_state(home, lambda state: state["parts"].pop("critic"))


def lose_weights(home: Path) -> None:
    change_state(home, lambda state: state["weights"].popitem())


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (tear_state, f"{STATE} is not what was written (torn or changed): delete this checkpoint to go on"),
        (exchange_adapter, "adapter_model.safetensors is not what was written"),
        (bring_from_another_recipe, "from another recipe (key 0123456789abcdef, this one"),
        (change_recipe, "holds a run of another recipe (see its recipe.yaml): use another --out, or delete it"),
        (change_saved_weights, "the restored weights do not have the hash that was saved: delete this checkpoint"),
        (exchange_base, "was trained on other base weights than model.path holds now"),
        (lose_critic, "its trained weights are not those of this recipe: delete the run to start anew"),
        (lose_weights, "its trained weights are not those of this recipe: delete the run to start anew"),
    ],
)
def test_a_run_that_cannot_be_taken_up_is_refused_by_the_command_in_one_line_and_left_alone(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    line: str,
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(trained, kept)
    try:
        damage(trained)
        before = {f: f.read_bytes() for f in newest(trained / "run").rglob("*") if f.is_file()}
        metrics = (trained / "run" / "metrics.jsonl").read_bytes()
        capsys.readouterr()
        assert main(["train", str(trained / "recipe.yaml"), "--out", str(trained / "run")]) == 2
        [told] = capsys.readouterr().err.splitlines()
        assert told.startswith(f"latentpad: {trained / 'run'}")
        assert line in told
        assert {f: f.read_bytes() for f in newest(trained / "run").rglob("*") if f.is_file()} == before
        assert (trained / "run" / "metrics.jsonl").read_bytes() == metrics
    finally:
        shutil.rmtree(trained)
        shutil.copytree(kept, trained)


def test_a_run_that_was_not_damaged_is_taken_up(trained: Path) -> None:
    assert main(["train", str(trained / "recipe.yaml"), "--out", str(trained / "run")]) == 0
    (trained / "run" / "done.json").unlink()

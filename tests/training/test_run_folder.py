"""A run folder is taken up where its checkpoint is, or refused."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest

from latentpad.experiments.run import open_run
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key
from latentpad.training.checkpoint import write_checkpoint
from latentpad.training.run_folder import Counters, RunFolder, locked
from tests import tiny

RECIPE = tiny.recipe("pretrain")
KEY = content_key(RECIPE)


def logged(folder: Path, steps: int, *, checkpoint: int) -> None:
    """A run that has logged this many steps and kept a checkpoint of an earlier one."""
    run = RunFolder(folder, RECIPE, KEY)
    for step in range(1, steps + 1):
        run.log(step, {"loss": 1 / step}, Counters(samples=step), {})
        if step == checkpoint:
            write_checkpoint(run.checkpoints, step, lambda to: (to / "weights").write_text("w") and None, key=KEY)
    run.close()


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_logged_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    logged(tmp_path, 5, checkpoint=3)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert RunFolder(tmp_path, RECIPE, KEY).resume == (3, tmp_path / "checkpoints" / "3")
    assert steps(tmp_path) == [1, 2, 3]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    logged(tmp_path, 4, checkpoint=4)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    RunFolder(tmp_path, RECIPE, KEY)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_without_a_checkpoint_a_run_starts_anew(tmp_path: Path) -> None:
    logged(tmp_path, 3, checkpoint=9)
    assert RunFolder(tmp_path, RECIPE, KEY).resume is None
    assert steps(tmp_path) == []


def test_the_folder_of_another_recipe_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    logged(tmp_path, 3, checkpoint=3)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    with pytest.raises(RecipeError, match="holds a run of another recipe") as refusal:
        RunFolder(tmp_path, RECIPE, "another key")
    assert "\n" not in str(refusal.value)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


def test_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    logged(tmp_path, 3, checkpoint=3)
    (tmp_path / "checkpoints" / "3" / "weights").write_text("changed")
    with pytest.raises(RecipeError, match="weights is not what was written"):
        RunFolder(tmp_path, RECIPE, KEY)


def test_what_a_kill_left_aside_is_cleared_by_the_run_and_by_nobody_who_reads_it(tmp_path: Path) -> None:
    logged(tmp_path, 3, checkpoint=3)
    aside = tmp_path / "checkpoints" / ".writing-4"
    aside.mkdir()
    assert open_run(tmp_path).step == 3
    assert aside.is_dir()
    RunFolder(tmp_path, RECIPE, KEY)
    assert not aside.exists()


# From Python 3.12 on: a thread of another test's library may be alive. The child only opens the folder.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_start_that_dies_while_it_writes_does_not_lock_the_folder(tmp_path: Path) -> None:
    logged(tmp_path, 3, checkpoint=3)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # files can be opened and cut, and nothing written to them
        try:
            RunFolder(tmp_path, RECIPE, KEY)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert RunFolder(tmp_path, RECIPE, KEY).resume == (3, tmp_path / "checkpoints" / "3")
    assert steps(tmp_path) == [1, 2, 3]


def test_a_second_process_is_refused_while_one_trains_in_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run), pytest.raises(RecipeError, match="another process trains in it"), locked(run):
        pytest.fail("two processes in one folder")
    with locked(run):
        assert (run / ".lock").is_file()

"""Several processes, killed and started again, end in the bits of an undisturbed run; other cuts are refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from latentpad.experiments.export import export_model
from latentpad.recipe.load import dump
from latentpad.training.checkpoint import steps_in
from tests import tiny
from tests.distributed import ranks
from tests.training import runs, worker

pytest.importorskip("deepspeed")

STEPS = 6
TRAINING = {"steps": STEPS, "checkpoint_every": 2, "learning_rate": 0.01, "micro_batch_tokens": 128}
LORA = {"lora": tiny.LORA.model_dump()}
CRITIC = {"name": "ppo", "critic": {"kind": "model", "lora_rank": 2, "pretraining_steps": 1}}
METHODS = ["ppo", "supervised"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def write_recipe(method: str, base: Path, folder: Path, **training: Any) -> Path:
    if method == "ppo":
        changes: dict[str, Any] = {"model": LORA, "rollout": {"max_new_tokens": 8, "chunk_size": 16}}
        return runs.write_rl(base, folder, training=TRAINING | training, algorithm=CRITIC, **changes)
    changes = {"model": {"path": str(base)} | LORA, "training": TRAINING | training}
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(dump(tiny.recipe(method, **changes)))
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    @cache
    def run(method: str, strategy: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        return ranks.trained(write_recipe(method, base, folder), folder / "run", strategy=strategy)

    return run


def files_of(run: Path) -> dict[str, bytes]:
    weights = next((run / "checkpoints" / str(STEPS)).glob("*.safetensors"))
    evaluated = sorted((run / "eval").iterdir())
    return {file.name: file.read_bytes() for file in (weights, *evaluated)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", ["replicated", "zero-1", "zero-2", "zero-3"])
def test_killed_and_started_again_it_ends_in_the_same_bits(
    method: str, strategy: str, base: Path, undisturbed: Callable[[str, str], Path], tmp_path: Path
) -> None:
    expected = undisturbed(method, strategy)
    recipe, run = write_recipe(method, base, tmp_path), tmp_path / "run"
    children = ranks.start(recipe, run, strategy=strategy)
    worker.signal_at(children[0], run, 3)
    for child in children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    ranks.finish(children)
    assert max(steps_in(run / "checkpoints")) in (2, 4)
    ranks.trained(recipe, run, strategy=strategy)
    assert runs.metrics(run) == runs.metrics(expected)
    assert len(runs.metrics(run)) == STEPS
    assert files_of(run) == files_of(expected)


def stopped_at_2(method: str, strategy: str, base: Path, folder: Path) -> tuple[Path, Path]:
    """A run that was killed after its first checkpoint."""
    recipe, run = write_recipe(method, base, folder), folder / "run"
    children = ranks.start(recipe, run, strategy=strategy)
    worker.signal_at(children[0], run, 3)
    for child in children:
        child.kill()
    ranks.finish(children)
    return recipe, run


@pytest.mark.parametrize("method", METHODS)
def test_where_weights_are_whole_any_number_of_processes_goes_on(
    method: str, base: Path, undisturbed: Callable[[str, str], Path], tmp_path: Path
) -> None:
    recipe, run = stopped_at_2(method, "replicated", base, tmp_path)
    assert worker.finish(worker.start(recipe, run)) == 0
    for found, expected in zip(runs.metrics(run), runs.metrics(undisturbed(method, "replicated")), strict=True):
        assert found.get("grad_norm", 0) == pytest.approx(expected.get("grad_norm", 0), rel=1e-3)
        assert found["samples"] == expected["samples"]


@pytest.mark.parametrize("method", METHODS)
def test_optimizer_state_that_is_cut_up_stays_with_its_cut(method: str, base: Path, tmp_path: Path) -> None:
    recipe, run = stopped_at_2(method, "zero-2", base, tmp_path)
    for strategy, size in (("replicated", 2), ("zero-1", 2), ("zero-2", 1)):
        codes = ranks.finish(ranks.start(recipe, run, strategy=strategy, size=size))
        assert codes[0] == 2
        line = ranks.log_of(run, 0).read_text().splitlines()[-1]
        assert "the checkpoint was written under zero-2 on 2 processes, this is" in line
        assert "go on with the same launch" in line


def test_what_was_trained_cut_up_is_exported_whole(undisturbed: Callable[[str, str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for strategy in ("replicated", "zero-3"):
        export_model(undisturbed("ppo", strategy), tmp_path / strategy)
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("replicated", "zero-3"))
    for (name, ours), theirs in zip(whole.named_parameters(), cut.parameters(), strict=True):
        assert float((ours - theirs).detach().abs().max()) < 1e-3, name

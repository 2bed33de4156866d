"""One run from recipe to evaluation, and a finished run opened again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from latentpad.formats import get_format
from latentpad.preflight import check_recipe, containment, refuse_launchers, refuse_missing_packages
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key, load_recipe
from latentpad.tasks import build_task
from latentpad.training.checkpoint import newest_checkpoint, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe

DONE = "done.json"


def is_done(folder: Path, key: str) -> bool:
    """Whether this folder holds this very run, finished and evaluated."""
    file = folder / DONE
    return file.is_file() and bool(json.loads(file.read_text())["key"] == key)


def run_recipe(recipe: Recipe, folder: Path, *, parent_key: str = "") -> None:
    """Train and evaluate; goes on where an earlier start was cut off, and returns at once if nothing is left to do.

    Args:
        recipe: complete, `model.path` a folder.
        folder: the run folder.
        parent_key: content key of what the run starts from, where that is another run.

    Raises:
        RecipeError: bad recipe, or the folder holds another run.
        MachineError: a package or device is missing, or a launcher asks for what would be ignored.
        Stopped: the user asked to stop; a checkpoint was left.
    """
    refuse_launchers(os.environ)
    refuse_missing_packages(recipe)
    check_recipe(recipe)
    key = content_key(recipe, parent_key)
    if is_done(folder, key):
        return
    from latentpad.evaluation.evaluate import write_evaluation
    from latentpad.training.run_folder import RunFolder, locked, write_json

    with locked(folder):
        run = RunFolder(folder, recipe, key, sandbox=containment(build_task(recipe.task)))
        _train(recipe, run, _starting_policy(recipe))
        run.close()
        step, cells, records = evaluate_run(folder, recipe)
        write_evaluation(folder, step, f"{recipe.name}/seed-{recipe.seed}", cells, records)
        write_json(folder / DONE, {"key": key, "step": step, "counters": last_counters(folder)})


def prove_recipe(recipe: Recipe) -> Iterator[str]:
    """The start-up proofs of an RL recipe on its real model, a line each; nothing is left on disk.

    Raises:
        RecipeError: bad recipe.
        MachineError: a proof failed.
    """
    from latentpad.algorithms import build_algorithm
    from latentpad.rollout.local import LocalEngine
    from latentpad.training.proofs import prove_all
    from latentpad.training.rl import RLTrainer
    from latentpad.training.run_folder import RunFolder

    if recipe.algorithm is None:
        raise RecipeError(f"--full proves the loop of method 'rl'; this recipe's method is {recipe.method!r}")
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), recipe, content_key(recipe))
        policy = _starting_policy(recipe)
        task, text_format = build_task(recipe.task), get_format(recipe.format)
        engine = LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
        algorithm = build_algorithm(recipe.algorithm)
        yield from prove_all(RLTrainer(recipe, run, policy, engine, task, text_format, algorithm))


def last_counters(folder: Path) -> dict[str, float]:
    """What the run has cost, from its last line of metrics."""
    last = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    counts = {name: last[name] for name in ("samples", "tokens_generated", "tokens_trained")}
    return counts | {"seconds": last["timing"]["total_seconds"]}


def _starting_policy(recipe: Recipe) -> Policy:
    from latentpad.models.policy import load_policy, new_policy

    if recipe.model.scratch is not None:
        alphabet = build_task(recipe.task).alphabet + get_format(recipe.format).alphabet
        return new_policy(recipe.model.scratch, alphabet, seed=recipe.seed)
    return load_policy(Path(recipe.model.path or ""), lora=recipe.model.lora, seed=recipe.seed)


def _train(recipe: Recipe, run: Any, policy: Policy) -> None:
    task, text_format = build_task(recipe.task), get_format(recipe.format)
    if recipe.method == "pretrain":
        from latentpad.training.pretrain import pretrain

        pretrain(recipe, run, policy, task, text_format)
    elif recipe.method == "supervised":
        from latentpad.training.supervised import train_supervised

        train_supervised(recipe, run, policy, task, text_format)
    else:
        from latentpad.algorithms import build_algorithm
        from latentpad.rollout.local import LocalEngine
        from latentpad.training.proofs import prove_start
        from latentpad.training.rl import RLTrainer

        assert recipe.algorithm is not None
        engine = LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
        algorithm = build_algorithm(recipe.algorithm)
        trainer = RLTrainer(recipe, run, policy, engine, task, text_format, algorithm)
        run.note_proofs(prove_start(trainer))
        trainer.train()


def evaluate_run(folder: Path, recipe: Recipe) -> tuple[int, list[Any], list[dict[str, Any]]]:
    """Evaluate the newest checkpoint of a run, loaded from disk as anyone would: step, cells, records."""
    from latentpad.evaluation.evaluate import evaluate
    from latentpad.rollout.local import LocalEngine

    opened = open_run(folder, recipe)
    policy = opened.policy()
    engine = LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
    task, text_format = build_task(recipe.task), get_format(recipe.format)
    return opened.step, *evaluate(recipe, policy, engine, task, text_format)


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run folder with at least one checkpoint."""

    recipe: Recipe
    step: int
    checkpoint: Path

    def policy(self) -> Policy:
        """The policy of the newest checkpoint, an adapter merged into its base."""
        from latentpad.models.policy import load_policy

        return load_policy(self.checkpoint)


def open_run(folder: Path, recipe: Recipe | None = None) -> OpenedRun:
    """A run folder with its newest checkpoint, checked against its manifest.

    Raises:
        RecipeError: not a run folder, no checkpoint yet, or a torn one.
    """
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(
            f"{folder}: not a run folder (no recipe.yaml); give a folder such as runs/demo/answers-only/seed-0"
        )
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise RecipeError(f"{folder}: has no checkpoint yet: run 'latentpad train' on its recipe first")
    verify(newest[1])
    return OpenedRun(recipe or load_recipe(folder / "recipe.yaml"), *newest)

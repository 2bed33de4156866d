"""One run from recipe to evaluation, and a finished run opened again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from latentpad.formats import get_format
from latentpad.launch import Launch, refuse_unlike
from latentpad.preflight import check_recipe, containment, refuse_missing_packages
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key, load_recipe
from latentpad.tasks import build_task
from latentpad.training.checkpoint import newest_checkpoint, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.training.processes.strategy import Strategy
    from latentpad.training.processes.world import World
    from latentpad.training.run_folder import RunFolder

DONE = "done.json"


def is_done(folder: Path, key: str) -> bool:
    """Whether this folder holds this very run, finished and evaluated."""
    file = folder / DONE
    return file.is_file() and bool(json.loads(file.read_text())["key"] == key)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    parent_key: str = "",
    launch: Launch | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Train and evaluate; goes on where an earlier start was cut off, and returns at once if nothing is left to do.

    Args:
        recipe: complete, `model.path` a folder.
        folder: the run folder; where there are several machines, one that all of them see.
        parent_key: content key of what the run starts from, where that is another run.
        launch: how this process was started, one of several or not; alone if not given.
        say: takes what is in effect, a line each.

    Raises:
        RecipeError: bad recipe, or the folder holds another run.
        MachineError: a package or device is missing, or the launcher asks for what would not be in effect.
        Stopped: the user asked to stop; a checkpoint was left.
    """
    launch = launch or Launch()
    refuse_unlike(recipe, launch)
    refuse_missing_packages(recipe, deepspeed=launch.deepspeed is not None)
    check_recipe(recipe)
    key = content_key(recipe, parent_key)
    from latentpad.training.processes.strategy import Strategy
    from latentpad.training.processes.world import joined

    with joined(launch) as world:
        if world.from_leader(is_done(folder, key)):
            return
        _run(recipe, folder, key, Strategy.of(launch, recipe, world), launch, say if world.leads else None)


def _run(
    recipe: Recipe, folder: Path, key: str, strategy: Strategy, launch: Launch, say: Callable[[str], None] | None
) -> None:
    from latentpad.evaluation.evaluate import write_evaluation
    from latentpad.models.build import starting_policy
    from latentpad.training.run_folder import RunFolder, locked, write_json

    world, sandbox = strategy.world, containment(build_task(recipe.task))
    with locked(folder) if world.leads else nullcontext():
        run = RunFolder(folder, recipe, key, sandbox=sandbox) if world.leads else None
        world.barrier()
        run = run or RunFolder(folder, recipe, key, writes=False)
        _all_see(run, world)
        if recipe.method == "prompt":
            _train_nothing(run, world, say or (lambda _: None))
        else:
            policy = starting_policy(recipe)
            _look_on(recipe, run, policy, world)
            _train(recipe, run, policy, strategy, launch, say or (lambda _: None))
        run.close()
        step, *found = evaluate_run(folder, recipe, world)
        if world.leads:
            write_evaluation(folder, step, f"{recipe.name}/seed-{recipe.seed}", *found, asked=recipe.evaluation)
            write_json(folder / DONE, {"key": key, "step": step, "counters": last_counters(folder)})
        world.barrier()


def _train_nothing(run: RunFolder, world: World, say: Callable[[str], None]) -> None:
    """Of a run of method `prompt` there are no steps to tell of, and no checkpoint."""
    line = "nothing is trained: the model as it is, with examples in its prompt"
    run.note_effect([line])
    say(f"in effect: {line}")
    if world.leads:
        run.metrics.touch()


def _look_on(recipe: Recipe, run: RunFolder, policy: Policy, world: World) -> None:
    """Evaluate while training where `evaluation.every` asks for it, before the first step too."""
    if recipe.evaluation.every is None:
        return
    from latentpad.evaluation.during import During

    run.after_step = During(recipe, run.path, policy, world)
    if run.resume is None:
        run.after_step(0)


def _all_see(run: RunFolder, world: World) -> None:
    """All processes must look at one and the same folder."""
    marker = run.path / "key.txt"
    seen = (marker.read_text() if marker.is_file() else "", None if run.resume is None else run.resume[0])
    if not world.same(seen):
        raise RecipeError(f"{run.path}: the processes see different files there: use an --out that all machines share")


def prove_recipe(recipe: Recipe) -> Iterator[str]:
    """The start-up proofs of an RL recipe on its real model, a line each; nothing is left on disk.

    Raises:
        RecipeError: bad recipe.
        MachineError: a proof failed.
    """
    from latentpad.algorithms import build_algorithm
    from latentpad.models.build import starting_policy
    from latentpad.training.engines import rollout_engine
    from latentpad.training.proofs import prove_all
    from latentpad.training.rl import RLTrainer
    from latentpad.training.run_folder import RunFolder

    if recipe.algorithm is None:
        raise RecipeError(f"--full proves the loop of method 'rl'; this recipe's method is {recipe.method!r}")
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), recipe, content_key(recipe))
        policy = starting_policy(recipe)
        task, text_format = build_task(recipe.task), get_format(recipe.format, recipe.model.path)
        algorithm = build_algorithm(recipe.algorithm)
        with rollout_engine(recipe, policy, task) as engine:
            yield from prove_all(RLTrainer(recipe, run, policy, engine, task, text_format, algorithm))


def last_counters(folder: Path) -> dict[str, float]:
    """What training has cost, from the run's last line of metrics; nothing where it has none."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    if not lines:
        return {"samples": 0, "tokens_generated": 0, "tokens_trained": 0, "seconds": 0.0}
    last = json.loads(lines[-1])
    counts = {name: last[name] for name in ("samples", "tokens_generated", "tokens_trained")}
    return counts | {"seconds": last["timing"]["total_seconds"]}


def _train(
    recipe: Recipe, run: RunFolder, policy: Policy, strategy: Strategy, launch: Launch, say: Callable[[str], None]
) -> None:
    from latentpad.experiments.fit import check_memory
    from latentpad.training.processes.effect import in_effect

    task, text_format = build_task(recipe.task), get_format(recipe.format, recipe.model.path)
    memory = check_memory(recipe, world_size=strategy.world.size, zero_stage=strategy.zero_stage)[1]

    def note(found: list[str]) -> None:
        lines = [*in_effect(recipe, policy, strategy, launch), *found, memory]
        run.note_effect(lines)
        for line in lines:
            say(f"in effect: {line}")

    if recipe.method == "pretrain":
        from latentpad.training.pretrain import pretrain

        pretrain(recipe, run, policy, task, text_format, strategy, note)
    elif recipe.method == "supervised":
        from latentpad.training.supervised import train_supervised

        train_supervised(recipe, run, policy, task, text_format, strategy, note)
    elif recipe.method == "expert_iteration":
        from latentpad.training.engines import rollout_engine
        from latentpad.training.expert_iteration import ExpertIteration

        with rollout_engine(recipe, policy, task, world=strategy.world) as engine:
            loop = ExpertIteration(recipe, run, policy, engine, task, text_format, strategy)
            run.note_proofs(loop.prove_start())
            note(loop.engage())
            loop.train()
    else:
        from latentpad.algorithms import build_algorithm
        from latentpad.training.engines import engine_lines, rollout_engine
        from latentpad.training.proofs import prove_start
        from latentpad.training.rl import RLTrainer

        assert recipe.algorithm is not None
        algorithm = build_algorithm(recipe.algorithm)
        with rollout_engine(recipe, policy, task, world=strategy.world, note=run.note_rollouts) as engine:
            trainer = RLTrainer(recipe, run, policy, engine, task, text_format, algorithm, strategy)
            run.note_proofs(prove_start(trainer))
            note([*engine_lines(engine), *trainer.engage()])
            trainer.train()


def evaluate_run(
    folder: Path, recipe: Recipe, world: World | None = None
) -> tuple[int, list[Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Evaluate the newest checkpoint of a run, loaded from disk as anyone would: step, cells, records, tallies.

    Of method `prompt` it is the model that the recipe names, after no step.
    """
    from latentpad.evaluation.evaluate import evaluate
    from latentpad.rollout.local import LocalEngine
    from latentpad.training.processes.world import ALONE

    if recipe.method == "prompt":
        from latentpad.evaluation.prompting import evaluate_prompts
        from latentpad.models.build import starting_policy

        return 0, *evaluate_prompts(recipe, starting_policy(recipe), world or ALONE)
    opened = open_run(folder, recipe)
    policy = opened.policy()
    engine = LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
    task, text_format = build_task(recipe.task), get_format(recipe.format, recipe.model.path)
    return opened.step, *evaluate(recipe, policy, engine, task, text_format, world or ALONE)


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run folder with at least one checkpoint."""

    recipe: Recipe
    step: int
    checkpoint: Path

    def policy(self) -> Policy:
        """The policy of the newest checkpoint, over weights held as they were in training."""
        from latentpad.models.policy import trained_policy

        quantisation, precision = self.recipe.model.quantisation, self.recipe.training.precision
        policy = trained_policy(self.checkpoint, quantisation=quantisation, precision=precision)
        return replace(policy, precision=precision)


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
    if newest is None and (recipe or load_recipe(folder / "recipe.yaml")).method == "prompt":
        raise RecipeError(
            f"{folder}: method 'prompt' trains nothing, so there is no checkpoint: take the model of its recipe.yaml"
        )
    if newest is None:
        raise RecipeError(f"{folder}: has no checkpoint yet: run 'latentpad train' on its recipe first")
    verify(newest[1])
    return OpenedRun(recipe or load_recipe(folder / "recipe.yaml"), *newest)

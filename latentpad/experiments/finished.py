"""Finished runs read back from disk and put into arms: recipe, evaluation, costs, and what they started from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import load_recipe, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from latentpad.recipe.schema import Recipe

    Json = dict[str, Any]

EXPERIMENT = "experiment.yaml"
_SEED = re.compile(r"seed-\d+")
COSTS = ("samples", "tokens_generated", "tokens_trained", "seconds")


def _object(file: Path) -> Json:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file}: not readable as JSON ({error}): run 'latentpad eval' on the run") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{file}: expected a JSON object, got {type(data).__name__}")
    return data


def _lines(file: Path) -> list[Json]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{file}: not readable as lines of JSON ({error}): run 'latentpad eval' on the run"
        ) from error


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with `done.json`.

    Attributes:
        folder: where it is.
        arm: its name, from the folder above `seed-N`, else the recipe's.
        recipe: resolved.
        step: the last.
    """

    folder: Path
    arm: str
    recipe: Recipe
    step: int

    @property
    def seed(self) -> int:
        """The recipe's."""
        return self.recipe.seed

    @cached_property
    def environment(self) -> Json:
        """Versions and hardware; empty if nothing says."""
        file = self.folder / "environment.json"
        return _object(file) if file.is_file() else {}

    @cached_property
    def evaluation(self) -> Json:
        """What the last evaluation was asked for: split, problems, cells beyond, tokens."""
        asked = _object(self.folder / "eval" / f"{self.step}.json").get("evaluation")
        return dict(asked) if asked else self.recipe.evaluation.model_dump(exclude_none=True)

    @cached_property
    def verdicts(self) -> dict[str, dict[str, dict[str, bool]]]:
        """Decoding -> cell -> problem -> right, of the last evaluation."""
        found: dict[str, dict[str, dict[str, bool]]] = {}
        for r in _lines(self.folder / "eval" / f"{self.step}.jsonl"):
            cell = found.setdefault(r["decoding"], {}).setdefault(r["cell"], {})
            cell[r["problem"]] = r["outcome"] == "CORRECT"
        return found

    @cached_property
    def tries(self) -> list[Json]:
        """Tallies of the problems that were tried many times; none if there are no such."""
        file = self.folder / "eval" / f"{self.step}.tries.jsonl"
        return _lines(file) if file.is_file() else []

    @cached_property
    def costs(self) -> dict[str, float]:
        """Of its own training: `samples`, `tokens_generated`, `tokens_trained`, `seconds`."""
        counters = _object(self.folder / "done.json").get("counters", {})
        return {name: float(counters.get(name, 0)) for name in COSTS}

    @cached_property
    def start(self) -> FinishedRun | str | None:
        """What it started from: a run, else the path of a model; None from scratch."""
        path = self.recipe.model.path
        if path is None:
            return None
        as_written, beside = Path(path), self.folder.parent.parent.joinpath(*Path(path).parts[-4:])
        for checkpoint in (as_written, beside):  # the whole experiment may have been moved
            run = checkpoint.parent.parent
            if checkpoint.parent.name == "checkpoints" and (run / "done.json").is_file():
                return read_run(run)
        return path

    @property
    def start_name(self) -> str:
        """Its start in a form that is equal only for equal starts: content key and step, else path, else `scratch`."""
        if isinstance(self.start, FinishedRun):
            return f"{self.start.key} step {Path(self.recipe.model.path or '').name}"
        return self.start or "scratch"

    @property
    def key(self) -> str:
        """Its content key."""
        marker = self.folder / "key.txt"
        return marker.read_text(encoding="utf-8").strip() if marker.is_file() else str(self.folder.resolve())

    @property
    def start_costs(self) -> dict[str, float] | None:
        """Costs of all that it started from, back to a model from scratch; None where a start is no run here."""
        if self.start is None:
            return dict.fromkeys(COSTS, 0.0)
        if isinstance(self.start, str):
            return None
        return self.start.total_costs

    @property
    def total_costs(self) -> dict[str, float] | None:
        """Its own costs and those of its start; None where a start is no run here."""
        before = self.start_costs
        return None if before is None else {name: before[name] + self.costs[name] for name in COSTS}


@dataclass(frozen=True)
class FinishedArm:
    """All finished runs of an arm, by seed; `experiment` is the folder that holds the arm's, if there is one."""

    name: str
    runs: dict[int, FinishedRun]
    experiment: Path | None = None

    @property
    def first(self) -> FinishedRun:
        """The run of the lowest seed."""
        return self.runs[min(self.runs)]


def read_run(folder: Path) -> FinishedRun:
    """A finished run. Raises `RecipeError` if its recipe or `done.json` is not good."""
    recipe = load_recipe(folder / "recipe.yaml")
    resolved = folder.resolve()
    name = resolved.parent.name if _SEED.fullmatch(resolved.name) else recipe.name
    step = _object(folder / "done.json").get("step")
    if not isinstance(step, int):
        raise RecipeError(f"{folder / 'done.json'}: step: got {step!r}; expected a number of steps: run it again")
    return FinishedRun(folder, name, recipe, step)


def _run_folders(folder: Path) -> list[Path]:
    """The run folders in a run, arm or experiment folder, the arms of an experiment in its own order."""
    if (folder / "recipe.yaml").is_file() or _SEED.fullmatch(folder.name):
        return [folder]
    if seeds := [p for p in folder.iterdir() if p.is_dir() and _SEED.fullmatch(p.name)]:
        return sorted(seeds, key=lambda p: int(p.name[5:]))
    arms = sorted(p for p in folder.iterdir() if p.is_dir())
    order = list(read_experiment(folder).get("arms", {}))
    if not order and (folder / "summary.json").is_file():
        order = [arm["arm"] for arm in _object(folder / "summary.json").get("arms", [])]
    arms.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
    found = [arm for arm in arms if any(_SEED.fullmatch(p.name) for p in arm.iterdir())]
    return [run for arm in found for run in _run_folders(arm)]


def read_experiment(folder: Path) -> Json:
    """What `ablate` wrote down of an experiment: `shared` keys and `arms`; empty where it did not."""
    file = folder / EXPERIMENT
    return read_yaml(file) if file.is_file() else {}


def find_arms(folders: Sequence[Path]) -> tuple[list[FinishedArm], list[str]]:
    """Arms of all finished runs in run, arm and experiment folders, and a line for each run that is not finished.

    Raises:
        RecipeError: a folder is not there or holds no run, or two runs are of one arm and seed.
    """
    finished: list[FinishedRun] = []
    left_out: list[str] = []
    for given in folders:
        if not given.is_dir():
            raise RecipeError(f"{given}: no such folder; give run, arm or experiment folders such as runs/demo")
        runs = _run_folders(given)
        if not runs:
            raise RecipeError(f"{given}: holds no run (no recipe.yaml, no ARM/seed-N); give folders such as runs/demo")
        for folder in runs:
            if (folder / "done.json").is_file():
                finished.append(read_run(folder))
            else:
                why = (
                    "failed (see its error.txt)" if (folder / "error.txt").is_file() else "not finished (no done.json)"
                )
                left_out.append(f"{folder}: left out: {why}")
    return _arms(finished), left_out


def _arms(runs: Iterable[FinishedRun]) -> list[FinishedArm]:
    """Runs by arm. Arms of one name from several experiments get the name of the experiment before theirs."""
    unique = {run.folder.resolve(): run for run in runs}
    homes: dict[str, set[Path]] = {}
    for folder, run in unique.items():
        if _SEED.fullmatch(folder.name):
            homes.setdefault(run.arm, set()).add(folder.parent)
    arms: dict[str, dict[int, FinishedRun]] = {}
    experiments: dict[str, Path | None] = {}
    for folder, run in unique.items():
        several = len(homes.get(run.arm, ())) > 1 and _SEED.fullmatch(folder.name)
        name = f"{folder.parent.parent.name}/{run.arm}" if several else run.arm
        there = arms.setdefault(name, {})
        if run.seed in there:
            raise RecipeError(
                f"{run.folder}: a second run of arm {name!r} with seed {run.seed}, beside {there[run.seed].folder}: "
                "move them into folders ARM/seed-N, or leave one out"
            )
        there[run.seed] = replace(run, arm=name)
        experiments[name] = folder.parent.parent if _SEED.fullmatch(folder.name) else None
    return [FinishedArm(name, seeds, experiments[name]) for name, seeds in arms.items()]

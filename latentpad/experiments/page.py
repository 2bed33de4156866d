"""What a report shows, as read from an experiment or run folder: arms, runs, cells, costs, curves."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from latentpad.experiments import plots
from latentpad.recipe.errors import RecipeError

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A cell of the evaluation, as a table column. `trained` is None where the training cells are not known."""

    key: tuple[str, str, str]
    trained: bool | None


@dataclass(frozen=True)
class Entry:
    """One arm at one cell and decoding: (seed, cell object) of each seed."""

    seeds: tuple[tuple[int, Json], ...]

    @property
    def seed(self) -> str:
        """The one seed, or `mean`."""
        return str(self.seeds[0][0]) if len(self.seeds) == 1 else "mean"

    def values(self, key: str) -> list[float]:
        """Of each seed that has it."""
        return [cell[key] for _, cell in self.seeds if cell.get(key) is not None]

    def mean(self, key: str = "accuracy") -> float | None:
        """The mean over seeds: a seed is a run, and problems of several runs are never pooled."""
        return statistics.fmean(self.values(key)) if self.values(key) else None

    def spread(self, key: str = "accuracy") -> str:
        """The Wilson interval of one seed's accuracy, or the least and the greatest of seeds that differ."""
        values, cell = self.values(key), self.seeds[0][1]
        if len(self.seeds) > 1:
            return f"{percent(min(values))} to {percent(max(values))}" if len(set(values)) > 1 else ""
        known = key == "accuracy" and None not in (cell.get("low"), cell.get("high"))
        return f"[{percent(cell['low'])}, {percent(cell['high'])}]" if known else ""


@dataclass(frozen=True)
class Run:
    """What a run folder holds; whatever is missing is empty."""

    seed: int
    recipe: str = ""
    metrics: tuple[Json, ...] = ()
    evaluation: Json = field(default_factory=dict)
    responses: tuple[Json, ...] = ()
    alarms: tuple[Json, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One row of the tables."""

    name: str
    description: str
    method: str
    start: str | None
    status: str
    cells: tuple[Json, ...]
    costs: tuple[Json, ...]
    runs: tuple[Run, ...]
    mark: plots.Mark

    def setting(self, *keys: str) -> Any:
        """The value of a key of the resolved recipe, section by section, or None; all seeds of an arm share it."""
        text = next((run.recipe for run in self.runs if run.recipe), "")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            return None
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def answers_only(self) -> bool:
        """Learns from its own responses by their answers: expert iteration, or RL by each response's own answer."""
        return self.method == "expert_iteration" or (self.method == "rl" and self.setting("rl", "signal") == "answer")

    @property
    def samples(self) -> bool:
        """Whether it learns from what it samples, so that rewards have a curve."""
        return self.method in ("rl", "expert_iteration")

    def entry(self, column: Column, decoding: str) -> Entry | None:
        """What this arm reached at a cell, or None."""
        found = [c for c in self.cells if cell_key(c) == column.key and c.get("decoding") == decoding]
        return Entry(tuple((c.get("seed", 0), c) for c in found)) if found else None

    def cost(self, key: str) -> float | None:
        """The mean cost of a seed."""
        values = [c[key] for c in self.costs if c.get(key) is not None]
        return statistics.fmean(values) if values else None

    def curve(self, key: str) -> plots.ArmLines:
        """A metric by step, of each seed that logged it."""
        points = [[(m["step"], m[key]) for m in run.metrics if is_number(m.get(key))] for run in self.runs]
        lines = (plots.SeedLine(*zip(*seed, strict=True)) for seed in points if seed)
        return plots.ArmLines(self.mark, tuple(lines))


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    title: str
    single_run: bool
    summary: Json
    arms: tuple[Arm, ...]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Every cell that any arm was evaluated on: `digits=2` before `digits=10`, else as they come."""
        trained = self.summary.get("train_cells") or []
        keys = list(dict.fromkeys(cell_key(c) for arm in self.arms for c in arm.cells))
        if all(re.fullmatch(r".*=\d+", key[2]) for key in keys):
            keys.sort(key=lambda key: (*key[:2], key[2].rpartition("=")[0], int(key[2].rpartition("=")[2])))
        return tuple(Column(key, key[2] in trained if trained else None) for key in keys)

    @cached_property
    def decodings(self) -> tuple[str, ...]:
        """Greedy first: the first is what the figure and the headline speak of."""
        found = dict.fromkeys(str(c.get("decoding")) for arm in self.arms for c in arm.cells)
        return tuple(sorted(found, key=lambda d: d != "greedy")) or ("greedy",)

    @property
    def longest(self) -> Column | None:
        """The cell of the headline: the experiment's own, else the longest trained one, else (unknown) the last."""
        named = self.summary.get("headline")
        if named is not None and (found := next((c for c in self.columns if c.key[2] == named), None)):
            return found
        return next((c for c in reversed(self.columns) if c.trained is not False), None)

    @cached_property
    def seeds(self) -> int:
        """The most seeds that any arm was evaluated with."""
        return max((len({c.get("seed") for c in arm.cells}) for arm in self.arms), default=0)

    def label(self, column: Column) -> str:
        """The cell's name, with task and split where there are several."""
        return column.key[2] if len({c.key[:2] for c in self.columns}) == 1 else "/".join(column.key)

    def arm(self, name: str | None) -> Arm | None:
        """By name."""
        return next((a for a in self.arms if a.name == name), None)

    def value(self, arm: Arm | None, key: str = "accuracy", column: Column | None = None) -> float | None:
        """One number in the main decoding, at the longest trained cell unless another is given."""
        where = column or self.longest
        entry = arm.entry(where, self.decodings[0]) if arm and where else None
        return entry.mean(key) if entry else None

    @cached_property
    def hero(self) -> Arm | None:
        """The arm of the headline: RL on final answers, free to write, before any other; then the most accurate."""
        evaluated = [a for a in self.arms if self.value(a) is not None]
        trained = [a for a in evaluated if a.method != "pretrain"] or evaluated
        free = {a.name: (a.answers_only, a.setting("scratchpad") != "empty", a.method == "rl") for a in trained}
        return max(trained, key=lambda a: (free[a.name], self.value(a)), default=None)


def cell_key(cell: Json) -> tuple[str, str, str]:
    """Task, split and cell of a cell object or of a response."""
    return (str(cell.get("task", "")), str(cell.get("split", "")), str(cell.get("cell", "")))


def percent(share: float | None, unit: str = "") -> str:
    """A share with one decimal; a dash for none; in a sentence (with a unit) all is 100%.

    >>> percent(0.4215), percent(1.0, "%")
    ('42.1', '100%')
    """
    if share is None:
        return "\u2013"
    return f"{100 * share:.{0 if unit and share == 1 else 1}f}{unit}"


def is_number(value: Any) -> TypeGuard[float]:
    """A number that can be drawn."""
    return isinstance(value, (int, float)) and isfinite(value)


def _json(path: Path) -> Json:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: not readable as JSON ({error}); let the command that wrote it write it again"
        ) from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _json_lines(path: Path) -> tuple[Json, ...]:
    """Every object; a last line that a killed run left unfinished is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            if number != len(lines):
                raise RecipeError(f"{path}:{number}: not JSON ({error}); delete the line, or run again") from error
    return tuple(objects)


def _read_run(folder: Path, seed: int) -> Run:
    evaluations = sorted((p for p in folder.glob("eval/*.json") if p.stem.isdecimal()), key=lambda p: int(p.stem))
    recipe = folder / "recipe.yaml"
    return Run(
        seed=seed,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        metrics=_json_lines(folder / "metrics.jsonl"),
        evaluation=_json(evaluations[-1]) if evaluations else {},
        responses=_json_lines(evaluations[-1].with_suffix(".jsonl")) if evaluations else (),
        alarms=_json_lines(folder / "alarms.jsonl"),
    )


def read_experiment(folder: Path) -> Page:
    """An experiment folder. Raises `RecipeError` if a file in it cannot be read."""
    summary = _json(folder / "summary.json")
    arms = []
    for index, arm in enumerate(summary.get("arms", ())):
        name = str(arm.get("arm", f"arm {index}"))
        arms.append(
            Arm(
                name=name,
                description=arm.get("description") or "",
                method=arm.get("method") or "",
                start=arm.get("from"),
                status=arm.get("status", "done"),
                cells=tuple(arm.get("cells", ())),
                costs=tuple(arm.get("costs", ())),
                runs=tuple(_read_run(folder / name / f"seed-{seed}", seed) for seed in arm.get("seeds", ())),
                mark=plots.mark_of(index),
            )
        )
    return Page(str(summary.get("experiment", folder.name)), False, summary, tuple(arms))


def read_single_run(folder: Path) -> Page:
    """A run as an experiment of one arm; which cells were trained on is known only from the experiment around it."""
    run = _read_run(folder, seed=0)
    title = str(run.evaluation.get("policy", folder.resolve().name))
    arm = Arm(title, "", "", None, "done", (), (), (run,), plots.mark_of(0))
    seed = int(arm.setting("seed") or 0)
    last = run.metrics[-1] if run.metrics else {}
    summed = sum(m.get("timing", {}).get("seconds", 0) for m in run.metrics)
    seconds = last.get("timing", {}).get("total_seconds", summed)
    arm = replace(
        arm,
        method=arm.setting("method") or "",
        cells=tuple({**cell, "seed": seed} for cell in run.evaluation.get("cells", ())),
        costs=({**last, "seed": seed, "seconds": seconds},),
        runs=(replace(run, seed=seed),),
    )
    around = folder.resolve().parent.parent / "summary.json"
    environment = folder / "environment.json"
    summary = {
        "machine": _json(environment) if environment.is_file() else {},
        "train_cells": _json(around).get("train_cells", []) if around.is_file() else [],
    }
    return Page(title, True, summary, (arm,))

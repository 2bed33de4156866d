"""Arms x seeds of one experiment: runs what is not done, re-uses what is, and ends in one summary of what went well."""

from __future__ import annotations

import json
import shutil
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from latentpad.experiments.compare import compare_paired
from latentpad.experiments.failures import Failures
from latentpad.experiments.markdown import results_markdown
from latentpad.experiments.one_run import BUG, EXPECTED, exit_code
from latentpad.experiments.run import DONE, is_done, run_recipe
from latentpad.preflight import check_plan, check_recipe, containment, refuse_missing_packages
from latentpad.recipe.errors import RecipeError, Stopped
from latentpad.recipe.load import content_key, dump_yaml, with_run
from latentpad.tasks import build_task
from latentpad.training.checkpoint import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from latentpad.recipe.load import Arm, Plan
    from latentpad.recipe.schema import Recipe

SUMMARY, RESULTS, DECLARED, ERROR = "summary.json", "results.md", "experiment.yaml", "error.txt"


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where an arm's run with a seed lives."""
    return out / arm / f"seed-{seed}"


def _last_checkpoint(folder: Path) -> Path:
    done = json.loads((folder / DONE).read_text())
    return folder / "checkpoints" / str(done["step"])


def ready(out: Path, arm: Arm, seed: int, keys: dict[tuple[str, int], str]) -> tuple[Recipe, str]:
    """The arm's recipe for a seed, its parent's checkpoint filled in, and its content key."""
    if arm.start_from is None:
        recipe = with_run(arm.recipe, seed=seed)
        return recipe, content_key(recipe)
    path = _last_checkpoint(run_folder(out, arm.start_from, seed))
    recipe = with_run(arm.recipe, seed=seed, path=str(path))
    return recipe, content_key(recipe, keys[arm.start_from, seed])


def set_aside(folder: Path, key: str) -> None:
    """A run of an older version of the arm makes room; nothing is deleted."""
    marker = folder / "key.txt"
    if marker.is_file() and (old := marker.read_text().strip()) != key:
        target = folder.with_name(f"{folder.name}.replaced-{old}")
        if target.exists():
            target = folder.with_name(f"{target.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        folder.rename(target)


def check_all(plan: Plan) -> list[tuple[int, Arm]]:
    """The runs of an experiment, seed by seed, parents before children.

    Raises:
        RecipeError: something is wrong with an arm.
        MachineError: an arm needs a package that is not installed.
    """
    check_plan(plan)
    for arm in plan.arms:
        refuse_missing_packages(arm.recipe)
    return [(seed, arm) for seed in plan.seeds for arm in plan.arms]


def ablate(plan: Plan, out: Path, *, command: str, say: Callable[[str], None], reuse: Sequence[Path] = ()) -> Failures:
    """Run every arm for every seed into `out`, one by one in this process, and write the summary there.

    A run that fails leaves its reason in `error.txt` of its folder; those that start from it are not run, all others
    are.

    Args:
        plan: the experiment.
        out: its folder.
        command: for the summary.
        say: takes a line for the user.
        reuse: folders of other experiments, whose finished runs of the very same content are taken over.

    Raises:
        RecipeError: something is wrong with an arm; nothing was run.
        MachineError: an arm needs a package that is not installed; nothing was run.
        Stopped: the user asked to stop; a checkpoint was left.
    """
    runs = check_all(plan)
    declare(plan, out)
    keys: dict[tuple[str, int], str] = {}
    failures = Failures()
    for number, (seed, arm) in enumerate(runs, start=1):
        place = f"[{number}/{len(runs)}] {arm.name}, seed {seed}"
        if arm.start_from is not None and (arm.start_from, seed) in failures:
            failures.skipped[arm.name, seed] = arm.start_from
            say(f"{place}: not run: {arm.start_from} failed")
            continue
        recipe, key = ready(out, arm, seed, keys)
        keys[arm.name, seed] = key
        folder = run_folder(out, arm.name, seed)
        if there := done_before(folder, key, reuse):
            say(f"{place}: {there}")
            continue
        set_aside(folder, key)
        say(f"{place}: {recipe.method}")
        try:
            check_recipe(recipe)
            run_recipe(recipe, folder, parent_key="" if arm.start_from is None else keys[arm.start_from, seed])
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the other arms are worth their runs)
            failures.failed[arm.name, seed] = _left_behind(folder, error)
            say(f"{place}: failed: {failures.failed[arm.name, seed][1]}")
    write_summary(plan, out, failures, command=command)
    return failures


def done_before(folder: Path, key: str, reuse: Sequence[Path] = ()) -> str | None:
    """Words for a run that need not be made again: it is there, or is now, taken over from another experiment."""
    if is_done(folder, key):
        return "done before, re-used"
    for other in reuse:
        found = run_folder(other, folder.parent.name, int(folder.name.removeprefix("seed-")))
        if is_done(found, key):
            verify(_last_checkpoint(found))
            set_aside(folder, key)
            aside = folder.with_name(f".{folder.name}.taking-over")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(found, aside, ignore=shutil.ignore_patterns(".lock"))
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            return f"taken over from {found}"
    return None


def _left_behind(folder: Path, error: Exception) -> tuple[int, str]:
    """Exit code and line of a run that failed; the whole story is in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    if isinstance(error, EXPECTED):
        return exit_code(error), " ".join(str(error).split())
    return BUG, f"{type(error).__name__}: {' '.join(str(error).split())} (see {folder / ERROR})"


def declare(plan: Plan, out: Path) -> None:
    """Write down what the experiment says its arms differ in: `experiment.yaml`, overrides applied."""
    from latentpad.training.run_folder import write_text

    out.mkdir(parents=True, exist_ok=True)
    write_text(out / DECLARED, dump_yaml(plan.declared))


def write_summary(plan: Plan, out: Path, failures: Failures, *, command: str) -> Path:
    """Write `summary.json` and `results.md` of an experiment, of the runs that are done; the path of the first."""
    from latentpad.training.run_folder import write_json, write_text

    summary = summarise(plan, out, failures, command=command)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RESULTS, results_markdown(summary))
    write_json(out / SUMMARY, summary)
    return out / SUMMARY


def summarise(plan: Plan, out: Path, failures: Failures, *, command: str) -> dict[str, Any]:
    """The numbers of the finished runs of an experiment, every seed on its own."""
    from latentpad.training.run_folder import environment

    task = build_task(plan.arms[0].recipe.task)
    done = {arm.name: [seed for seed in plan.seeds if (arm.name, seed) not in failures] for arm in plan.arms}
    return {
        "experiment": plan.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": environment(containment(task)),
        "seeds": list(plan.seeds),
        "train_cells": list(task.cells),
        "published": [band.model_dump() for band in plan.published],
        "headline": plan.headline,
        "arms": [_summarise_arm(arm, done[arm.name], out, failures.status(arm.name)) for arm in plan.arms],
        "comparisons": [
            c for arm in plan.arms if arm.start_from for seed in done[arm.name] for c in _compare(arm, seed, out)
        ],
    }


def _final_evaluation(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    step = json.loads((folder / DONE).read_text())["step"]
    cells = json.loads((folder / "eval" / f"{step}.json").read_text())
    lines = (folder / "eval" / f"{step}.jsonl").read_text(encoding="utf-8").splitlines()
    return cells, [json.loads(line) for line in lines]


def _summarise_arm(arm: Arm, seeds: Sequence[int], out: Path, status: str) -> dict[str, Any]:
    cells, costs = [], []
    for seed in seeds:
        folder = run_folder(out, arm.name, seed)
        cells += [{"seed": seed, **cell} for cell in _final_evaluation(folder)[0]["cells"]]
        costs.append({"seed": seed, **json.loads((folder / DONE).read_text())["counters"]})
    return {
        "arm": arm.name,
        "description": arm.description,
        "method": arm.recipe.method,
        "from": arm.start_from,
        "seeds": list(seeds),
        "cells": cells,
        "costs": costs,
        "status": status,
    }


def _verdicts(records: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, bool]]:
    verdicts: dict[tuple[str, str], dict[str, bool]] = {}
    for r in records:
        verdicts.setdefault((r["cell"], r["decoding"]), {})[r["problem"]] = r["outcome"] == "CORRECT"
    return verdicts


def _compare(arm: Arm, seed: int, out: Path) -> list[dict[str, Any]]:
    """The arm beside the arm that it started from, greedy, cell by cell on the same problems."""
    if arm.start_from is None:
        raise RecipeError(f"arm {arm.name!r} starts from no other")
    ours = _verdicts(_final_evaluation(run_folder(out, arm.name, seed))[1])
    theirs = _verdicts(_final_evaluation(run_folder(out, arm.start_from, seed))[1])
    return [
        {"arm": arm.name, "baseline": arm.start_from, "seed": seed, "cell": cell, "decoding": decoding}
        | asdict(compare_paired(right, theirs[cell, decoding]))
        for (cell, decoding), right in ours.items()
        if decoding == "greedy" and (cell, decoding) in theirs
    ]

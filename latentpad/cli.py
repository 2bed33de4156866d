"""The command line. Verbs import heavy things inside."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from latentpad.arguments import parse
from latentpad.experiments.one_run import CANNOT, DONE, EXPECTED, STOPPED, exit_code
from latentpad.launch import refuse_several, visible_rank
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.recipe.load import Plan
    from latentpad.recipe.schema import Recipe


def say(line: str) -> None:
    """A line for the user."""
    print(line, flush=True)  # noqa: T201


def _out_folder(out: Path | None, name: str) -> Path:
    folder = out or Path("runs") / name
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"--out {folder}: is a file; expected a folder")
    return folder


def _load(path: Path, overrides: Sequence[str]) -> Recipe | Plan:
    from latentpad.recipe.load import is_experiment, load_plan, load_recipe, read_yaml

    return (load_plan if is_experiment(read_yaml(path)) else load_recipe)(path, list(overrides))


def _checked(path: Path, overrides: Sequence[str]) -> tuple[Recipe | Plan, list[str]]:
    """What the file says, found good by everything that needs no torch."""
    from latentpad.preflight import check_plan, check_recipe
    from latentpad.recipe.load import Plan

    loaded = _load(path, overrides)
    try:
        return loaded, check_plan(loaded) if isinstance(loaded, Plan) else check_recipe(loaded)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _check(args: argparse.Namespace) -> int:
    loaded, lines = _checked(args.recipe, args.overrides)
    for line in lines:
        say(f"ok  {line}")
    from latentpad.recipe.load import Plan

    if not isinstance(loaded, Plan):  # the arms of an experiment may start from models that are not there yet
        from latentpad.experiments.fit import check_memory

        enough, line = check_memory(loaded)
        say(f"{'ok  ' if enough else '-   '}{line}")
    if args.full:
        from latentpad.experiments.run import prove_recipe

        if isinstance(loaded, Plan):
            raise RecipeError(f"{args.recipe}: --full needs a model on disk: give the recipe.yaml of one of its runs")
        for line in prove_recipe(loaded):
            say(f"ok  {line}")
    say(f"{args.recipe}: good ({type(loaded).__name__.lower()} '{loaded.name}')")
    return DONE


def _train(args: argparse.Namespace) -> int:
    from latentpad.recipe.load import Plan

    recipe, _ = _checked(args.recipe, args.overrides)
    if isinstance(recipe, Plan):
        raise RecipeError(f"{args.recipe}: this is an experiment: run it with 'latentpad ablate {args.recipe}'")
    folder = _out_folder(args.out, recipe.name)
    from latentpad.experiments.run import run_recipe
    from latentpad.launch import read_launch

    run_recipe(recipe, folder, launch=read_launch(os.environ, args.deepspeed), say=say)
    if visible_rank() == 0:
        _show_run(folder)
    return DONE


def _show_run(folder: Path) -> None:
    import json

    from latentpad.experiments.table import run_table

    step = json.loads((folder / "done.json").read_text())["step"]
    say(run_table(json.loads((folder / "eval" / f"{step}.json").read_text())))
    say(f"run: {folder}")


def _eval(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from latentpad.experiments.run import evaluate_run, open_run
    from latentpad.experiments.table import run_table
    from latentpad.preflight import check_recipe
    from latentpad.recipe.load import load_recipe

    open_run(args.run)
    recipe = load_recipe(args.run / "recipe.yaml", args.overrides)
    check_recipe(recipe)
    step, cells, *lines = evaluate_run(args.run, recipe)
    from latentpad.evaluation.evaluate import write_evaluation

    name = f"{recipe.name}/seed-{recipe.seed}"
    write_evaluation(args.run, step, name, cells, *lines, asked=recipe.evaluation)
    say(run_table(json.loads(json.dumps({"policy": name, "step": step, "cells": [asdict(c) for c in cells]}))))
    say(f"written: {args.run / 'eval' / f'{step}.json'}")
    return DONE


def _ablate(args: argparse.Namespace) -> int:
    from latentpad.recipe.load import Plan

    plan, _ = _checked(args.recipe, args.overrides)
    if not isinstance(plan, Plan):
        raise RecipeError(f"{args.recipe}: this is one run's recipe: run it with 'latentpad train {args.recipe}'")
    out = _out_folder(args.out, plan.name)
    import json

    from latentpad.experiments.ablate import SUMMARY, ablate
    from latentpad.experiments.report import write_report
    from latentpad.experiments.table import experiment_table

    command = " ".join(["latentpad ablate", str(args.recipe), *args.overrides])
    if args.at_once is None:
        failures = ablate(plan, out, command=command, say=say, reuse=args.reuse)
    else:
        from latentpad.experiments.side_by_side import Share, ablate_side_by_side

        share = Share(args.at_once, args.cpus or 1, args.gpus or 0.0, args.ray)
        failures = ablate_side_by_side(plan, out, share, command=f"{command} {share}", say=say, reuse=args.reuse)
    page = write_report(out)
    say(experiment_table(json.loads((out / SUMMARY).read_text())))
    say(f"report: {page}")
    failed = failures.end(len(plan.seeds) * len(plan.arms))
    return DONE if failed is None else _fail(failed[1], failed[0])


def _compare(args: argparse.Namespace) -> int:
    from latentpad.experiments.comparison import compare_folders
    from latentpad.experiments.comparison_text import markdown, terminal

    found = compare_folders(
        args.folders,
        baseline=args.baseline,
        cell=args.cell,
        decoding=args.decoding,
        differ=args.differ,
        success=args.success,
    )
    say(terminal(found))
    from latentpad.training.run_folder import write_json, write_text

    if args.out is not None:
        from latentpad.experiments.curves import draw_curves

        figure = args.out.with_suffix(".png")
        draw_curves(found["curves"], figure, cell=found["cells"][0]["cell"])
        write_text(args.out, markdown(found, figure.name))
        say(f"written: {args.out}, {figure}")
    if args.json is not None:
        write_json(args.json, found)
        say(f"written: {args.json}")
    return DONE


def _report(args: argparse.Namespace) -> int:
    from latentpad.experiments.report import write_report

    say(f"report: {write_report(args.folder)}")
    return DONE


def _sample(args: argparse.Namespace) -> int:
    from latentpad.experiments.run import open_run
    from latentpad.tasks import build_task

    if args.count < 1 or args.temperature < 0:
        raise RecipeError("--count must be 1 or more and --temperature 0 or more")
    opened = open_run(args.run)
    task = build_task(opened.recipe.task)
    if args.problem is not None:
        task.parse(args.problem)  # before anything heavy is loaded
    from latentpad.experiments.sample import Sampler

    sampler = Sampler(opened, temperature=args.temperature, count=args.count)
    if args.problem is not None:
        sampler.show(args.problem)
        return DONE
    say("A problem a line, such as 47+85; an empty line ends.")
    while (text := _ask()) != "":
        try:
            sampler.show(text)
        except RecipeError as error:
            say(str(error))
    return DONE


def _export(args: argparse.Namespace) -> int:
    from latentpad.experiments.export import export_adapter, export_model

    exported = (export_adapter if args.adapter else export_model)(args.run, args.to, step=args.step)
    say(exported.line())
    return DONE


def _doctor(args: argparse.Namespace) -> int:
    from latentpad.doctor import examine
    from latentpad.doctor.builds import clear_locks, extensions_folder, prebuild

    def show(lines: list[tuple[bool, str]]) -> bool:
        for good, line in lines:
            say(f"{'ok  ' if good else '-   '}{line}")
        return all(good for good, _ in lines)

    if args.clear_locks:
        show(clear_locks(extensions_folder()))
    if args.prebuild:
        return DONE if show(prebuild(extensions_folder())) else CANNOT
    if not args.clear_locks:
        show(examine())
    return DONE


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


_VERBS = {
    "check": _check,
    "train": _train,
    "eval": _eval,
    "ablate": _ablate,
    "compare": _compare,
    "report": _report,
    "sample": _sample,
    "export": _export,
    "doctor": _doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        args = parse(arguments)
        if args.verb != "train":
            refuse_several(os.environ, args.verb)
        return _VERBS[args.verb](args)
    except EXPECTED as error:
        return _fail(str(error), exit_code(error))
    except KeyboardInterrupt:
        return _fail("interrupted; what was checkpointed is kept", STOPPED)


def _fail(line: str, code: int) -> int:
    who = ""
    if (rank := visible_rank()) > 0:
        # What is wrong for all is said by rank 0, and its launcher then ends the others while they wait here.
        time.sleep(3)
        who = f"rank {rank}: "
    print(f"latentpad: {who}{' '.join(line.split())}", file=sys.stderr, flush=True)  # noqa: T201
    return code

"""The command line. Verbs import heavy things inside."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from latentpad import __version__
from latentpad.recipe.errors import Diverged, MachineError, RecipeError, Stopped, nearest
from reward import BadOptions, GoldAnswerError, MissingPackage
from reward.sandbox import SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.recipe.load import Plan
    from latentpad.recipe.schema import Recipe

DONE, BUG, BAD_INPUT, CANNOT, STOPPED = 0, 1, 2, 3, 130


def say(line: str) -> None:
    """A line for the user."""
    print(line, flush=True)  # noqa: T201


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the nearest verb."""

    def error(self, message: str) -> NoReturn:
        verbs = list(_VERBS)
        wrong = message.split("invalid choice: '")[-1].split("'")[0] if "invalid choice" in message else ""
        raise RecipeError(f"{message}; {nearest(wrong, verbs) if wrong else ''}see 'latentpad --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="latentpad",
        description="Teach a language model to think on a scratchpad from final answers alone.",
        epilog="Exit codes: 0 done, 2 bad input or training that diverged, 3 the machine cannot, 130 stopped by you "
        "(checkpoint left), 1 a bug.",
    )
    parser.add_argument("--version", action="version", version=f"latentpad {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")

    def recipe_arguments(sub: argparse.ArgumentParser, what: str) -> None:
        sub.add_argument("recipe", type=Path, metavar=what, help="YAML file")
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key, such as training.steps=10")

    sub = verb("check", "find what is wrong with a recipe or an experiment, without running it")
    recipe_arguments(sub, "RECIPE")
    sub.add_argument("--full", action="store_true", help="prove on the real model that an RL run would be right")
    sub = verb("train", "train one recipe, then evaluate it; goes on where it was if it was cut off")
    recipe_arguments(sub, "RECIPE")
    sub.add_argument("--out", type=Path, help="run folder (default: runs/NAME)")
    sub = verb("eval", "evaluate the newest checkpoint of a run on held-out problems")
    sub.add_argument("run", type=Path, metavar="RUN", help="run folder")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key, such as evaluation.problems=2000")
    sub = verb("ablate", "run the arms x seeds of an experiment, re-use what is done, and write the report")
    recipe_arguments(sub, "EXPERIMENT")
    sub.add_argument("--out", type=Path, help="experiment folder (default: runs/EXPERIMENT)")
    sub = verb("report", "write report/index.html for an experiment or a run")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="experiment or run folder")
    sub = verb("sample", "show what a run's policy writes for a problem; asks for problems if none is given")
    sub.add_argument("run", type=Path, metavar="RUN", help="run folder")
    sub.add_argument("problem", nargs="?", metavar="PROBLEM", help="such as '47+85'")
    sub.add_argument("--temperature", type=float, default=0.0, help="0 is greedy decoding (default)")
    sub.add_argument("--count", type=int, default=1, help="how many responses")
    verb("doctor", "say what this machine has, what it lacks, and what to do about it")
    return parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before or after options, and a problem may begin with a minus; argparse allows neither."""
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    if args.verb == "sample" and args.problem is None and len(rest) == 1 and not rest[0].startswith("--"):
        args.problem, rest = rest[0], []
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if rest and (overrides != rest or not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += overrides
    return args


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
    if args.full:
        from latentpad.experiments.run import prove_recipe
        from latentpad.recipe.load import Plan

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

    run_recipe(recipe, folder)
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
    step, cells, records = evaluate_run(args.run, recipe)
    from latentpad.evaluation.evaluate import write_evaluation

    name = f"{recipe.name}/seed-{recipe.seed}"
    write_evaluation(args.run, step, name, cells, records)
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

    from latentpad.experiments.ablate import ablate
    from latentpad.experiments.report import write_report
    from latentpad.experiments.table import experiment_table

    command = " ".join(["latentpad ablate", str(args.recipe), *args.overrides])
    summary = ablate(plan, out, command=command, say=say)
    page = write_report(out)
    say(experiment_table(json.loads(summary.read_text())))
    say(f"report: {page}")
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


def _doctor(_: argparse.Namespace) -> int:
    from latentpad.doctor import examine

    lines = examine()
    for there, line in lines:
        say(f"{'ok  ' if there else '-   '}{line}")
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
    "report": _report,
    "sample": _sample,
    "doctor": _doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        args = _parse(arguments)
        return _VERBS[args.verb](args)
    except (RecipeError, GoldAnswerError, BadOptions, Diverged) as error:
        return _fail(str(error), BAD_INPUT)
    except (MachineError, MissingPackage, SandboxUnavailable) as error:
        return _fail(str(error), CANNOT)
    except Stopped as stopped:
        return _fail(str(stopped), STOPPED)
    except KeyboardInterrupt:
        return _fail("interrupted; what was checkpointed is kept", STOPPED)


def _fail(line: str, code: int) -> int:
    print(f"latentpad: {' '.join(line.split())}", file=sys.stderr)  # noqa: T201
    return code

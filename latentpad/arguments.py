"""What may stand on the command line: verbs, their options, and overrides of a recipe's keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from latentpad import __version__
from latentpad.launch import without_local_rank
from latentpad.recipe.errors import RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = ("check", "train", "eval", "ablate", "compare", "report", "sample", "export", "doctor")


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the nearest verb."""

    def error(self, message: str) -> NoReturn:
        wrong = message.split("invalid choice: '")[-1].split("'")[0] if "invalid choice" in message else ""
        raise RecipeError(f"{message}; {nearest(wrong, VERBS) if wrong else ''}see 'latentpad --help'")


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
    sub.add_argument("--deepspeed", type=Path, metavar="JSON", help="ZeRO by this configuration (recipes/launch)")
    sub = verb("eval", "evaluate the newest checkpoint of a run on held-out problems")
    sub.add_argument("run", type=Path, metavar="RUN", help="run folder")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key, such as evaluation.problems=2000")
    sub = verb("ablate", "run the arms x seeds of an experiment, re-use what is done, and write the report")
    recipe_arguments(sub, "EXPERIMENT")
    sub.add_argument("--out", type=Path, help="experiment folder (default: runs/EXPERIMENT)")
    sub.add_argument("--at-once", type=int, metavar="N", help="runs side by side, each in a process of its own on Ray")
    sub.add_argument("--cpus", type=int, metavar="C", help="CPUs for each run side by side (default: 1)")
    sub.add_argument("--gpus", type=float, metavar="G", help="GPUs for each; 0.5 shares one (default: 0, none is seen)")
    sub.add_argument("--ray", metavar="ADDRESS", help="a running cluster: 'auto' or HOST:PORT (default: a private one)")
    sub.add_argument(
        "--reuse",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="another experiment's folder: its finished runs of the very same content are taken over",
    )
    _compare_arguments(verb("compare", "compare finished arms with a baseline: same problems, same seeds, in numbers"))
    sub = verb("report", "write report/index.html for an experiment or a run")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="experiment or run folder")
    sub = verb("sample", "show what a run's policy writes for a problem; asks for problems if none is given")
    sub.add_argument("run", type=Path, metavar="RUN", help="run folder")
    sub.add_argument("problem", nargs="?", metavar="PROBLEM", help="such as '47+85'")
    sub.add_argument("--temperature", type=float, default=0.0, help="0 is greedy decoding (default)")
    sub.add_argument("--count", type=int, default=1, help="how many responses")
    sub = verb("export", "write what a run has trained as a model that plain transformers loads")
    sub.add_argument("run", type=Path, metavar="RUN", help="run folder")
    sub.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder; nothing is overwritten")
    sub.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    sub.add_argument("--adapter", action="store_true", help="the LoRA adapter alone, for peft, not merged")
    sub = verb("doctor", "say what this machine has, what it lacks, and what to do about it")
    sub.add_argument("--prebuild", action="store_true", help="build DeepSpeed's extensions ahead of their first use")
    sub.add_argument("--clear-locks", action="store_true", help="remove locks that killed builds of extensions left")
    return parser


def _compare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of experiments, arms or runs")
    sub.add_argument("--baseline", metavar="ARM", help="that the others are compared with (default: the first)")
    sub.add_argument("--cell", help="show this cell only (default: the mean of the trained cells, and each cell)")
    sub.add_argument("--decoding", default="greedy", help="default: greedy")
    sub.add_argument(
        "--differ", action="append", default=[], metavar="KEY", help="arms may differ in this key; give it once a key"
    )
    sub.add_argument("--success", type=float, default=0.9, help="accuracy of a seed that succeeds (default: 0.9)")
    sub.add_argument("--out", type=Path, metavar="FILE.md", help="write Markdown, and a figure beside it")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Verb, options and overrides; raises `RecipeError`.

    Overrides may stand before or after options, and a problem may begin with a minus; argparse allows neither.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(without_local_rank(arguments))
    if args.verb == "sample" and args.problem is None and len(rest) == 1 and not rest[0].startswith("--"):
        args.problem, rest = rest[0], []
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if rest and (overrides != rest or not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += overrides
    if args.verb == "ablate":
        _refuse_wrong_shares(args)
    if args.verb == "compare":
        _refuse_wrong_comparison(args)
    return args


def _refuse_wrong_comparison(args: argparse.Namespace) -> None:
    if not 0 < args.success <= 1:
        raise RecipeError(f"--success {args.success:g}: expected an accuracy above 0 and at most 1, such as 0.9")
    if args.out is not None and args.out.suffix != ".md":
        raise RecipeError(f"--out {args.out}: expected a Markdown file such as compare.md (the figure gets its name)")
    for name in ("out", "json"):
        file = getattr(args, name)
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise RecipeError(f"--{name} {file}: expected a file in a folder that is there")


def _refuse_wrong_shares(args: argparse.Namespace) -> None:
    """What a run gets of a cluster must be something, and is nothing where runs follow each other in this process."""
    given = [name for name in ("cpus", "gpus", "ray") if getattr(args, name) is not None]
    if args.at_once is None and given:
        raise RecipeError(f"--{given[0]} is for runs side by side: give --at-once N too")
    for name in ("at_once", "cpus"):
        if (number := getattr(args, name)) is not None and number < 1:
            raise RecipeError(f"--{name.replace('_', '-')} {number}: expected 1 or more")
    gpus = args.gpus or 0.0
    if not 0 <= gpus < float("inf") or (gpus > 1 and gpus != int(gpus)):
        raise RecipeError(f"--gpus {gpus:g}: expected a whole number, or a share of one such as 0.5")

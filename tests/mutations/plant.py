"""Plants each bug of `bugs.py` in a copy of this tree, one at a time, and sees that it is caught.

    python -m tests.mutations.plant [--only NAME ...] [--write]

A bug is caught when a named test fails by an assertion or by one of our refusals, or when `latentpad check --full` ends
with exit code 3 and one line; an error of any other kind is no catch. `--write` writes the table, README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from tests.mutations.bugs import BUGS, CHECK, Bug

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("README.md")
LIMIT = 120  # seconds of the processor a bug; by the clock ten times as many, for the machine may be busy
# Imported once: each bug's process is forked from this one, which has nothing of ours loaded.
PRELOADED = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "scipy.stats",
    "pydantic",
    "yaml",
    "torch.utils.tensorboard",
)
REFUSED = 3
HEAD = """\
# Known bugs, planted and caught

Each bug was seen in a system of this field, or breaks a paper's formula, or is a plain slip. `python -m
tests.mutations.plant --write` plants one at a time in a copy of this tree, runs the tests that are to catch it, or
`latentpad check --full` on a tiny recipe (temperature 0.7, forbidden tokens, KL to the policy that training starts
from), and writes this table. A bug counts as caught where a test fails by an assertion or by a refusal of latentpad's
own; an import that breaks or a name that is missing is no catch. The same tests pass, and the same check is good,
without a bug.
"""


class NotCaughtError(Exception):
    """What went otherwise than it should."""


@dataclass(frozen=True)
class Tree:
    """A copy of the tree that may be spoilt, beside a recipe to check."""

    root: Path

    @property
    def recipe(self) -> Path:
        """For `latentpad check --full`."""
        return self.root.parent / "recipe.yaml"

    def inside(self, function: Callable[[], dict[str, Any]], limit: int = LIMIT) -> dict[str, Any]:
        """What a function returns in a process of its own in which the copy is imported, and what it printed.

        Raises:
            NotCaughtError: it did not come to its end, or not in time.
        """
        for name in ("report.json", "out", "err"):
            (self.root.parent / name).unlink(missing_ok=True)
        child = multiprocessing.get_context("fork").Process(target=self._in_copy, args=(function, limit))
        child.start()
        child.join(10 * limit)
        if child.is_alive():
            child.kill()
            child.join()
            raise NotCaughtError(f"no end after {10 * limit} s")
        out, err = ((self.root.parent / name).read_text() for name in ("out", "err"))
        if not (self.root.parent / "report.json").is_file():
            raise NotCaughtError(f"no report: {(err or out)[-2000:]}")
        report: dict[str, Any] = json.loads((self.root.parent / "report.json").read_text())
        return report | {"out": out, "err": err}

    def _in_copy(self, function: Callable[[], dict[str, Any]], limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
            os.dup2(os.open(self.root.parent / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
        os.chdir(self.root)
        os.environ["PYTHONPATH"] = str(self.root)
        sys.dont_write_bytecode = True  # an edit in the same second, of the same size, would go unseen
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "latentpad", "reward")]:
            del sys.modules[name]
        sys.path[:] = [str(self.root), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        for package in map(import_module, ("latentpad", "reward", "tests.tiny")):
            assert Path(package.__file__ or "").is_relative_to(self.root), f"{package.__name__} is not the copy's"
        report = json.dumps(function())
        (self.root.parent / "report.json").write_text(report)


def copy_tree(target: Path) -> None:
    """Every file of the checkout that git tracks or would."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def caught_by_tests(tree: Tree, nodes: Sequence[str]) -> str:
    """The test that failed first. Raises `NotCaughtError`."""
    report = tree.inside(partial(run_tests, nodes))
    if report["code"] == 0:
        raise NotCaughtError(f"survived {', '.join(nodes)}")
    failures = report["failures"]
    if report["code"] != 1 or not failures or failures[0]["when"] != "call" or not failures[0]["verdict"]:
        raise NotCaughtError(f"broken, not caught: exit code {report['code']}, {failures or report['out'][-2000:]}")
    return str(failures[0]["test"])


def caught_by_check(tree: Tree) -> str:
    """The line of `latentpad check --full`. Raises `NotCaughtError`."""
    report = tree.inside(partial(run_check, tree.recipe))
    lines = report["err"].splitlines()
    if report["code"] != REFUSED or len(lines) != 1:
        raise NotCaughtError(f"check: exit code {report['code']}, {(report['err'] or report['out'])[-600:]}")
    return str(lines[0].removeprefix("latentpad: "))


def plant(tree: Tree, bug: Bug) -> list[str]:
    """By what the bug is caught, a line each; the copy is restored. Raises `NotCaughtError`."""
    file = tree.root / bug.file
    sound = file.read_text()
    if sound.count(bug.old) != 1:
        raise NotCaughtError(f"{bug.file} holds the text to replace {sound.count(bug.old)} times")
    file.write_text(sound.replace(bug.old, bug.new))
    try:
        tests = [name for name in bug.caught_by if name != CHECK]
        found = [f"`{caught_by_tests(tree, tests)}`"] if tests else []
        return found + [f"check: {caught_by_check(tree)}" for name in bug.caught_by if name == CHECK]
    finally:
        file.write_text(sound)


def prove_sound(tree: Tree, bugs: Sequence[Bug]) -> None:
    """Without a bug the same tests pass and the check is good. Raises `NotCaughtError`."""
    tree.inside(partial(write_recipe, tree.root.parent), 4 * LIMIT)
    nodes = sorted({name for bug in bugs for name in bug.caught_by} - {CHECK})
    if nodes:
        report = tree.inside(partial(run_tests, nodes), 20 * LIMIT)
        if report["code"] != 0:
            raise NotCaughtError(f"without any bug: {report['failures'] or report['err'] + report['out']}")
    if any(CHECK in bug.caught_by for bug in bugs):
        report = tree.inside(partial(run_check, tree.recipe), 4 * LIMIT)
        if report["code"] != 0:
            raise NotCaughtError(f"without any bug, check says: {report['err'] or report['out']}")


def run_tests(nodes: Sequence[str]) -> dict[str, Any]:
    """In the copy: pytest's exit code, and what failed."""
    from latentpad.recipe.errors import Diverged, MachineError, RecipeError

    verdicts = (AssertionError, pytest.fail.Exception, RecipeError, MachineError, Diverged)
    failures: list[dict[str, Any]] = []

    def is_verdict(error: BaseException) -> bool:
        if isinstance(error, BaseExceptionGroup):  # hypothesis found several
            return all(map(is_verdict, error.exceptions))
        return isinstance(error, verdicts)

    class Watch:
        """Told of every failure."""

        def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
            if call.excinfo is not None and not isinstance(call.excinfo.value, pytest.skip.Exception):
                error = call.excinfo.value
                told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                failures.append({"test": item.nodeid, "when": call.when, "verdict": is_verdict(error), "error": told})

    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # PRELOADED
    code = pytest.main([*options, *nodes], plugins=[Watch()])
    return {"code": int(code), "failures": failures}


def run_check(recipe: Path) -> dict[str, Any]:
    """In the copy: the exit code of `latentpad check --full`."""
    from latentpad.cli import main

    try:
        return {"code": main(["check", str(recipe), "--full"])}
    except SystemExit as end:
        return {"code": end.code}


def write_recipe(folder: Path) -> dict[str, Any]:
    """In the copy: a policy on disk, and the recipe that is checked."""
    from latentpad.recipe.load import dump
    from tests import tiny

    tiny.policy().save(folder / "policy")
    limits = {"max_new_tokens": 8}
    recipe = tiny.recipe(
        "rl",
        model={"path": str(folder / "policy")},
        rl={"prompts_per_step": 6, "group_size": 4, "kl": {"coef": 0.1}},
        rollout={**limits, "temperature": 0.7},
        evaluation=limits,
        scratchpad="empty",
    )
    (folder / "recipe.yaml").write_text(dump(recipe))
    return {}


def table(caught: dict[str, list[str]]) -> str:
    """README.md, as planted."""
    rows = ["| bug | source | planted in | caught by |", "|---|---|---|---|"]
    for bug in BUGS:
        by = "<br>".join(line.replace("|", "\\|") for line in caught[bug.name])
        rows.append(f"| **{bug.name}**: {bug.what} | {bug.source} | `{bug.file}` | {by} |")
    number = sum(any(line.startswith("check: ") for line in lines) for lines in caught.values())
    total = f"{len(BUGS)} bugs, all caught; {number} of them by `latentpad check --full` too."
    return f"{HEAD}\n{total}\n\n" + "\n".join(rows) + "\n"


def say(line: str) -> None:
    """To the terminal, at once."""
    print(line, flush=True)  # noqa: T201 (a script)


def main() -> int:
    """0 if every bug is caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these bugs alone")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} if all are caught")
    args = parser.parse_args()
    bugs = [bug for bug in BUGS if args.only is None or bug.name in args.only]
    if args.only is not None and (args.write or len(bugs) != len(set(args.only))):
        parser.error("--only: unknown name" if not args.write else "--write needs all bugs: leave --only out")
    caught: dict[str, list[str]] = {}
    start = time.monotonic()
    for name in PRELOADED:
        import_module(name)
    with TemporaryDirectory() as folder:
        tree = Tree(Path(folder).resolve() / "tree")
        copy_tree(tree.root)
        prove_sound(tree, bugs)
        say(f"sound without a bug: {time.monotonic() - start:.0f} s")
        for bug in bugs:
            began = time.monotonic()
            try:
                caught[bug.name] = plant(tree, bug)
                told = " and ".join(caught[bug.name])
            except NotCaughtError as error:
                told = f"NOT CAUGHT: {error}"
            say(f"{bug.name} ({time.monotonic() - began:.0f} s): {told}")
    say(f"{len(caught)} of {len(bugs)} caught in {(time.monotonic() - start) / 60:.1f} minutes")
    if len(caught) < len(bugs):
        return 1
    if args.write:
        TABLE.write_text(table(caught))
    return 0


if __name__ == "__main__":
    sys.exit(main())

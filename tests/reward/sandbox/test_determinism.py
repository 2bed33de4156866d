"""The same program prints the same, whoever runs it, whenever, after whatever."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from reward.sandbox import Run, Sandbox, Settings

if TYPE_CHECKING:
    import pytest

LOOK_AROUND = """
import gc, hashlib, os, random, sys, threading, collections, locale
class C: pass
print({None, 1, "a", "b", int, str, print, 2.5}, hash("x"), hash(b"x"), {str(i) for i in range(9)})
print(random.random(), random.sample(range(99), 5), sum(0.1 * i for i in range(99)))
print(os.getcwd(), sys.argv, sys.orig_argv, sys.path, sys.executable, sorted(os.environ.items()), os.getcwd())
print(sys.getrecursionlimit(), threading.active_count(), gc.isenabled(), gc.get_threshold(), sys.flags)
print(hashlib.sha256("|".join(sys.modules).encode()).hexdigest(), sorted(globals()), sys.gettrace())
print(sys.stdin.encoding, sys.stdout.errors, sys.stderr.name, os.listdir(".")[:0], __name__, os.umask if 0 else "")
print(1 / 0)
"""
DISTURB = [
    "import random, sys, builtins, os\nrandom.seed(5)\nsys.setrecursionlimit(50000)\nos.environ['A'] = 'b'",
    "import builtins, json\nbuiltins.print = None\njson.loads = None\nbuiltins.len = lambda x: 3",
    "x = ['y' * n for n in range(5000)]",
    "import unittest, sys\nsys.modules['math'] = None\nsys.path.insert(0, '/x')\nprint(x)",
    "import os; os._exit(3)",
]


def test_two_hundred_runs_among_others_look_alike(sandbox: Sandbox) -> None:
    runs = [Run(LOOK_AROUND)] * 200 + [Run(source) for source in DISTURB] * 8
    Random(0).shuffle(runs)
    results = [result for run, result in zip(runs, sandbox.run_many(runs), strict=True) if run.source == LOOK_AROUND]
    assert len(results) == 200
    assert {result.stderr.splitlines()[-1] for result in results} == {"ZeroDivisionError: division by zero"}
    assert len({(result.stdout, result.stderr, result.exit_code) for result in results}) == 1


def test_another_process_with_another_environment_sees_the_same(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sandbox.run(LOOK_AROUND)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("A_TOKEN", "secret" * 300)
    with Sandbox(settings=Settings(slots=1, recycle_after=1), cache_size=0) as other:
        there = [other.run(LOOK_AROUND) for _ in range(3)]
    assert {result.stdout for result in there} == {here.stdout}

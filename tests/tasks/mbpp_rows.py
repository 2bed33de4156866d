"""Rows in MBPP's columns with little programs of our own, for the tests of its tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentpad.tasks.mbpp import Mbpp
from latentpad.types import Problem

# Each program with four tests: one for test, one for validation, two for train.
_TEXT = r"""
def add_up(n):
    s = 0
    for k in range(n):
        s += k
    return s
assert add_up(3) == 3
assert add_up(4) == 6
assert add_up(2) == 1
assert add_up(5) == 10

def factorial(n):
    if n < 2:
        return 1
    return n * factorial(n - 1)
assert factorial(3) == 6
assert factorial(2) == 2
assert factorial(4) == 24
assert factorial(1) == 1

def shout(word):
    return word.upper() + '!'
assert shout('hey') == 'HEY!'
assert shout('no 1') == 'NO 1!'
assert shout('a') == 'A!'
assert shout('') == '!'

def evens(items):
    return [x for x in items if x % 2 == 0]
assert evens([1, 2, 4]) == [2, 4]
assert evens([3]) == []
assert evens([8]) == [8]
assert evens([7, 6]) == [6]

def count(word):
    found = {}
    for c in word:
        found[c] = found.get(c, 0) + 1
    return found
assert count('aab') == {'a': 2, 'b': 1}
assert count('cd') == {'d': 1, 'c': 1}
assert count('e') == {'e': 1}
assert count('ff') == {'f': 2}

def ends(items):
    return items[0], items[-1]
assert ends([4, 5, 6]) == (4, 6)
assert ends([7]) == (7, 7)
assert ends('xy') == ('x', 'y')
assert ends((0, 1)) == (0, 1)

def mean(a, b):
    total = a + b
    return total / 2
assert mean(1, 2) == 1.5
assert mean(3, 3) == 3.0
assert mean(0, 5) == 2.5
assert mean(4, 9) == 6.5

def is_square(n):
    return any(k * k == n for k in range(n + 1))
def squares(n):
    return [k for k in range(n) if is_square(k)]
assert squares(2) == [0, 1]
assert squares(1) == [0]
assert squares(5) == [0, 1, 4]
assert squares(3) == [0, 1]

import math
def hypotenuse(a, b):
    return math.sqrt(a * a + b * b)
assert hypotenuse(3, 4) == 5
assert hypotenuse(6, 8) == 10.0
assert hypotenuse(5, 12) == 13
assert hypotenuse(8, 15) == 17

import re
def numbers(text):
    return re.findall(r'\d+', text)
assert numbers('a1b22') == ['1', '22']
assert numbers('7') == ['7']
assert numbers('x') == []
assert numbers('3-4') == ['3', '4']

def whole(text):
    try:
        return int(text)
    except ValueError:
        return None
assert whole('12') == 12
assert whole('x') == None
assert whole('7') == 7
assert whole('') == None

def halvings(n):
    steps = 0
    while n > 1:
        n //= 2
        steps += 1
    return steps
assert halvings(4) == 2
assert halvings(9) == 3
assert halvings(2) == 1
assert halvings(16) == 4
"""
PROGRAMS = [block.partition("\nassert ")[0] for block in _TEXT.strip().split("\n\n")]
TESTS = [["assert " + test for test in block.split("\nassert ")[1:]] for block in _TEXT.strip().split("\n\n")]


def row(task_id: int, code: str, tests: list[str], **more: Any) -> dict[str, Any]:
    text = f"Write function number {task_id % 100}."
    columns = {"text": text, "code": code, "task_id": task_id, "test_setup_code": "", "challenge_test_list": []}
    return {**columns, "test_list": tests, **more}


def rows() -> list[dict[str, Any]]:
    """One for prompts, and a dozen for each split, with line ends as published."""
    found = [row(1, PROGRAMS[0], ["assert add_up(9) == 36"])]
    for number, (code, tests) in enumerate(zip(PROGRAMS, TESTS, strict=True)):
        parts = {11: tests[:1], 511: tests[1:2], 601: tests[2:]}
        found += [row(first + number, code.replace("\n", "\r\n"), part) for first, part in parts.items()]
    return found


def write(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return str(path)


def one_problem(folder: Path, code: str, call: str, value: str, **options: Any) -> tuple[Mbpp, Problem]:
    """A task with one problem in `train`, and that problem."""
    held_out = [r for r in rows() if r["task_id"] in (11, 511)]
    path = write(folder / "one.jsonl", [*held_out, row(700, code, [f"assert {call} == {value}"])])
    task = Mbpp(path=path, cache=str(folder), step_bounds=(), **options)
    [problem] = task.distinct("train", "steps=1+", 2)
    return task, problem


def trace_of(folder: Path, code: str, call: str, value: str, **options: Any) -> list[str]:
    """The lines of its gold scratchpad, once it has been read."""
    task, problem = one_problem(folder, code, call, value, **options)
    gold = task.gold_scratchpad(problem)
    assert task.read_scratchpad(problem, gold) == problem.answer
    return gold.split("\n")

"""Execution traces worked by hand, what cannot be traced, and what a wrong value leads to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from latentpad.tasks import ScratchpadError
from latentpad.tasks.mbpp import Mbpp
from latentpad.tasks.tracing import execution
from tests.tasks.mbpp_rows import PROGRAMS, one_problem, row, rows, trace_of, write
from tests.tasks.test_python_programs import FIGURE, TRACE


def test_the_papers_program_has_the_papers_trace(tmp_path: Path) -> None:
    code = FIGURE.partition("\n\n")[2].partition("\n\noutput")[0]
    task, problem = one_problem(tmp_path, code, "f(6)", "24")
    assert problem.question == FIGURE
    assert task.gold_scratchpad(problem) == TRACE
    assert problem.answer == "24"


def test_a_call_shows_the_callee_and_the_last_return_the_module(tmp_path: Path) -> None:
    assert trace_of(tmp_path, PROGRAMS[1], "factorial(2)", "2") == [
        "state: {}",
        "line: def factorial(n):",
        'state: {"factorial": "<callable_object factorial>"}',
        "line: output = factorial(2)",
        'state: {"n": 2}',
        "line:     if n < 2:",
        'state: {"n": 2}',
        "line:     return n * factorial(n - 1)",
        'state: {"n": 1}',
        "line:     if n < 2:",
        'state: {"n": 1}',
        "line:         return 1",
        'state: {"factorial": "<callable_object factorial>", "output": 2}',
    ]


def test_the_compact_spelling_shows_what_has_changed(tmp_path: Path) -> None:
    assert trace_of(tmp_path, PROGRAMS[0], "add_up(2)", "1", spelling="compact") == [
        "def add_up(n):#add_up=\"<callable_object add_up>\"",
        "output = add_up(2)#{n=2}",
        "s = 0#s=0",
        "for k in range(n):#k=0",
        "s += k#",
        "for k in range(n):#k=1",
        "s += k#s=1",
        "for k in range(n):#",
        "return s#{add_up=\"<callable_object add_up>\", output=1}",
    ]  # fmt: skip


def test_an_exception_goes_on_where_it_is_caught(tmp_path: Path) -> None:
    assert trace_of(tmp_path, PROGRAMS[10], "whole('x')", "None")[5:] == [
        "line:     try:",
        'state: {"text": "x"}',
        "line:         return int(text)",
        'state: {"text": "x"}',
        "line:     except ValueError:",
        'state: {"text": "x"}',
        "line:         return None",
        'state: {"whole": "<callable_object whole>", "output": null}',
    ]


def test_a_statement_of_several_lines_is_one_step_and_a_comprehension_part_of_it(tmp_path: Path) -> None:
    code = "def h(x):\n    return x\ndef f(a):\n    b = [h(k)\n     for k in a\n     if k]\n    return (\n     b)"
    lines = trace_of(tmp_path, code, "f([5, 0, 6])", "[5, 6]")
    assert [line for line in lines if line.startswith("line: ")] == [
        "line: def h(x):",
        "line: def f(a):",
        "line: output = f([5, 0, 6])",
        "line:     b = [h(k)",
        "line:     return x",
        "line:     return x",
        "line:     return (",
    ]
    assert lines[8:14:2] == ['state: {"x": 5}', 'state: {"x": 6}', 'state: {"a": [5, 0, 6], "b": [5, 6]}']


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("None, True, False", "(null, true, false)"),
        ("1, -2, 10**20", "(1, -2, 100000000000000000000)"),
        ("[0.1 + 0.2, 1e100, -0.0]", "[0.30000000000000004, 1e+100, -0.0]"),
        ("[float('inf'), float('-inf')]", "[Infinity, -Infinity]"),
        ("(1,), (), [[]]", "((1,), (), [[]])"),
        ("{10, 9}, set(), frozenset({'b', 'a'}), frozenset()", '({9, 10}, set(), frozenset({"a", "b"}), frozenset())'),
        ("{'a': 1, 2: {}}", '{"a": 1, 2: {}}'),
        ("'it\\'s \"so\"\\n\\té'", '"it\'s \\"so\\"\\n\\té"'),
        ("b'x\\0', 2j", "(b'x\\x00', 2j)"),
        ("{(1, 2), (1,)}, {1, 'a'}", '({(1, 2), (1,)}, {"a", 1})'),
    ],
)
def test_values_are_json_where_json_has_them_and_python_elsewhere(tmp_path: Path, value: str, text: str) -> None:
    assert trace_of(tmp_path, f"def f():\n    x = {value}\n    return 0", "f()", "0")[-3] == f'state: {{"x": {text}}}'


def test_what_is_no_data_is_named(tmp_path: Path) -> None:
    code = (
        "import math\nfrom collections import Counter, deque\nclass N:\n    pass\n"
        "def f():\n    x = [N(), N, math, len, lambda: 0, Counter('aa'), deque([1]), iter(())]\n    return 0"
    )
    assert trace_of(tmp_path, code, "f()", "0")[-3] == (
        'state: {"x": ["<N object>", "<callable_object N>", "<module math>", "<callable_object len>", '
        '"<callable_object <lambda>>", Counter({"a": 2}), deque([1]), "<tuple_iterator object>"]}'
    )


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    k = 0\n    while True:\n        k += 1\n        if k > 2:\n            break\n    return k",
        "def f():\n    def g(n):\n        for i in range(n):\n            yield i\n    return sum(1 for _ in g(2)) + 1",
        "def f():\n    n = 0\n    for x in [1, 2, 3]: n += 1\n    else: n += 0\n    return n",
        "def f():\n    return max([1, 3], key=lambda v: v)",
        "def f():\n    x = 1; y = 2\n    if x: return x + y\n    return 0",
        "class A:\n  'A.'\n  size = 3\n  def __init__(self):\n    self.n = A.size\ndef f():\n  'Doc.'\n  return A().n",
        "def f():\n  try: [][0]\n  except KeyError:\n    pass\n  except:\n    pass\n  finally:\n    n = 3\n  return n",
        "n = 0\ndef f():\n    global n\n    n = 1\n    del n\n    return 3",
        "def f(a=1,\n      b=2):\n    if (a and\n            b):\n        return a + b",
    ],
)  # fmt: skip
def test_both_routes_agree_on_what_python_can_do(tmp_path: Path, code: str) -> None:
    assert trace_of(tmp_path, code, "f()", "3")[-1].endswith('"output": 3}')


@pytest.mark.parametrize(
    ("code", "value", "reason"),
    [
        ("def f():\n    n = 0\n    while True:\n        n += 1", "0", "too many characters"),
        ("def f():\n    s = 'x'\n    while True:\n        s += s", "0", "too many characters"),
        ("def f():\n    return 1 // 0", "0", "an exception"),
        ("def f():\n    return 1", "2", "the test does not hold"),
        ("def f():\n    return object()", "0", "no plain value"),
        ("import random\ndef f():\n    return random.random()", "f() * 0 + output", "another value when run again"),
        ("def f():\n    return sum(range(10**9))", "0", "timeout"),
        ("def f(:\n    return 1", "1", "error"),
    ],
)
def test_what_cannot_be_traced_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, value: str, reason: str
) -> None:
    monkeypatch.setattr(execution, "LIMITS", replace(execution.LIMITS, cpu_seconds=0.5))
    found = [*(r for r in rows() if r["task_id"] in (11, 511, 601)), row(700, code, [f"assert f() == {value}"])]
    task = Mbpp(path=write(tmp_path / "rows.jsonl", found), cache=str(tmp_path), step_bounds=())
    assert task.coverage()[0] == f"mbpp train: 2 of 3 tests became problems (1 {reason})"


def test_a_corruption_is_executed_on(tmp_path: Path) -> None:
    task, problem = one_problem(
        tmp_path, "def f(a):\n    b = a + 1\n    return b * 2", "f(4)", "10", spelling="compact"
    )
    start = 'def f(a):#f="<callable_object f>"\noutput = f(4)#'
    found = {c.prefix.removeprefix(start): c.answer for c in (task.corrupt(problem, str(i)) for i in range(40)) if c}
    assert found == {
        "{a=5}": "12",
        "{a=3}": "8",
        "{a=4}\nb = a + 1#b=6": "12",
        "{a=4}\nb = a + 1#b=4": "8",
    }


def test_the_reader_says_which_line_is_wrong(tmp_path: Path) -> None:
    task, problem = one_problem(tmp_path, PROGRAMS[6], "mean(1, 2)", "1.5")
    gold = task.gold_scratchpad(problem)
    with pytest.raises(
        ScratchpadError, match=r"line 7: .*\"total\": 4.* is wrong: it is not what 'total = a \+ b' leaves"
    ):
        task.read_scratchpad(problem, gold.replace('"total": 3', '"total": 4'))
    with pytest.raises(ScratchpadError, match="line 9 is missing: it is not what 'return total / 2' leaves"):
        task.read_scratchpad(problem, gold.rpartition("\n")[0])
    with pytest.raises(ScratchpadError, match="line 10: 'line: x' comes after the end"):
        task.read_scratchpad(problem, gold + "\nline: x")

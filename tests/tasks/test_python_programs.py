"""Small Python programs: the paper's trace to the letter, and gold answers that Python itself gives."""

from __future__ import annotations

import contextlib
import io
import sys
from types import FrameType
from typing import Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.tasks import ScratchpadError
from latentpad.tasks.programs import ProgramError, run
from latentpad.tasks.python_programs import PythonPrograms
from reward.sandbox import Run, Status, shared
from tests.tasks.contract import TaskContract

STEPS = ("1-3", "4-6", "7-9")
COMPACT, NYE = PythonPrograms(steps=STEPS), PythonPrograms(steps=STEPS, spelling="nye")
FIGURE = """Consider the following Python function:

def f(v0):
  v0 += 0
  v4 = 2
  while v4 > 0:
    v4 -= 1
    v0 *= 2
  return v0

output = f(6)

What is the execution trace?"""
TRACE = """state: {}
line: def f(v0):
state: {"f": "<callable_object f>"}
line: output = f(6)
state: {"v0": 6}
line:   v0 += 0
state: {"v0": 6}
line:   v4 = 2
state: {"v0": 6, "v4": 2}
line:   while v4 > 0:
state: {"v0": 6, "v4": 2}
line:     v4 -= 1
state: {"v0": 6, "v4": 1}
line:     v0 *= 2
state: {"v0": 12, "v4": 1}
line:   while v4 > 0:
state: {"v0": 12, "v4": 1}
line:     v4 -= 1
state: {"v0": 12, "v4": 0}
line:     v0 *= 2
state: {"v0": 24, "v4": 0}
line:   while v4 > 0:
state: {"v0": 24, "v4": 0}
line:   return v0
state: {"f": "<callable_object f>", "output": 24}"""


class TestPythonProgramsIsATask(TaskContract):
    worked = True
    small_cell = "steps=1-1"
    nonsense = ("steps=3-1", "steps=0-3", "steps=1", "steps=1-100")

    @pytest.fixture(params=["compact", "nye"])
    def options(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {"name": "python_programs", "steps": list(STEPS), "spelling": request.param}


def python_trace(source: str) -> list[tuple[str, dict[str, Any]]]:
    """What Python itself executes: each line, and the variables when the next one starts."""
    lines, seen, pending = source.split("\n"), list[tuple[str, dict[str, Any]]](), list[str]()

    def watch(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != "program":
            return None
        if pending and event in ("line", "return"):
            seen.append((pending.pop(), {k: v for k, v in frame.f_locals.items() if not k.startswith("__")}))
        if event == "line":
            pending.append(lines[frame.f_lineno - 1])
        return watch

    code = compile(source, "program", "exec")
    old = sys.gettrace()
    sys.settrace(watch)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, {"__builtins__": {"print": print}})  # noqa: S102 (our own small programs)
    finally:
        sys.settrace(old)
    return seen


def test_the_trace_of_the_paper_byte_for_byte() -> None:
    problem = NYE.parse(FIGURE)
    assert NYE.gold_scratchpad(problem) == TRACE
    assert NYE.read_scratchpad(problem, TRACE) == problem.answer == "24"
    assert problem.cell == "steps=9-9" or problem.cell == "steps=7-9"
    assert NYE.program(problem).endswith("output = f(6)\nprint(output)")


def test_the_compact_spelling_is_a_program_that_prints_its_answer() -> None:
    problem = COMPACT.parse("a=6;a+=0;b=2;while b>0:; b-=1; a*=2")
    assert problem.question == "a=6\na+=0\nb=2\nwhile b>0:\n b-=1\n a*=2\nprint(a)"
    assert COMPACT.gold_scratchpad(problem) == (
        "a=6#6\na+=0#6\nb=2#6,2\nwhile b>0:#6,2\nb-=1#6,1\na*=2#12,1\nwhile b>0:#12,1\n"
        "b-=1#12,0\na*=2#24,0\nwhile b>0:#24,0"
    )
    assert problem.answer == "24"


def test_both_spellings_are_one_canonical_program() -> None:
    compact = COMPACT.parse("a=6;a+=0;b=2;while b>0:; b-=1; a*=2")
    assert NYE.canonical(NYE.parse(FIGURE)) == COMPACT.canonical(compact)
    assert NYE.canonical(NYE.parse(FIGURE.replace("v4", "v7"))) == COMPACT.canonical(compact)


def test_if_and_else_worked_by_hand() -> None:
    problem = COMPACT.parse("a=1;if a>2:; a-=1;else:; a*=0;a+=2")
    assert COMPACT.gold_scratchpad(problem) == "a=1#1\nif a>2:#1\na*=0#0\na+=2#2"


@pytest.mark.parametrize("cell", [*COMPACT.cells, "steps=10-14"])
def test_python_executes_the_lines_that_the_scratchpad_shows(cell: str) -> None:
    for index in range(60):
        problem = COMPACT.draw("train", cell, str(index))
        shown = [line.split("#") for line in COMPACT.gold_scratchpad(problem).split("\n")]
        expected = [
            [line.strip(), ",".join(map(str, state.values()))] for line, state in python_trace(problem.question)
        ]
        assert [[line, values] for line, values in shown] == expected[:-1]


def test_the_sandbox_prints_the_gold_answers() -> None:
    problems = [t.draw("test", cell, str(i)) for t in (COMPACT, NYE) for cell in t.cells for i in range(20)]
    programs = [Run((NYE if "def f" in p.question else COMPACT).program(p)) for p in problems]
    results = shared().run_many(programs)
    assert {result.status for result in results} == {Status.OK}
    assert [result.stdout for result in results] == [f"{problem.answer}\n" for problem in problems]
    assert len(results) == 120


@pytest.mark.parametrize("task", [COMPACT, NYE])
def test_cells_count_executed_lines_and_values_stay_small(task: PythonPrograms) -> None:
    for cell, (low, high) in {"steps=1-3": (1, 3), "steps=7-9": (7, 9)}.items():
        for index in range(100):
            problem = task.draw("train", cell, str(index))
            steps = task._run(task._known(problem))
            assert low <= len(steps) <= high
            assert max(abs(value) for step in steps for value in step.state.values()) <= 99


def test_every_kind_of_statement_is_drawn() -> None:
    text = "\n".join(COMPACT.draw("train", "steps=13-16", str(i)).question for i in range(300))
    for part in ("while b>0:", "while c>0:", "if a<", "if a>=", "else:", "a+=", "a-=", "a*=", "  "):
        assert part in text


def test_a_corruption_is_the_program_going_on_from_the_wrong_value() -> None:
    problem = COMPACT.parse("a=6;a+=1;a*=2;a-=1")  # 7, 14, 13
    found = {COMPACT.corrupt(problem, str(name)) for name in range(60)}
    answers = {(c.scratchpad, c.answer) for c in found if c}
    assert ("a=6#6\na+=1#8\na*=2#14\na-=1#13", "15") in answers
    assert ("a=6#6\na+=1#7\na*=2#13\na-=1#13", "12") in answers
    assert len(answers) == 6


def test_a_value_that_is_thrown_away_is_not_corrupted() -> None:
    problem = COMPACT.parse("a=6;a+=1;a*=0")
    found = {COMPACT.corrupt(problem, str(name)) for name in range(40)}
    assert {c.prefix for c in found if c} == {"a=6#6\na+=1#7\na*=0#1", "a=6#6\na+=1#7\na*=0#-1"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a+=1", "import os"], "'import os' is not a statement of these programs"),
        (["b+=1"], "'b+=1' uses 'b' before it is set"),
        (["else:"], "'else:' without an 'if'"),
        (["if a>0:"], "'if a>0:' is not a statement of these programs"),
        (["a+=1", " a+=1"], "'a+=1' is not a statement of these programs"),
        (["while a>0:", " a+=0"], "executes more than 200 lines"),
        (["a*=2"] * 7, "'a*=2' makes 128, beyond 99"),
        (["a=9**9**9"], "'a=9**9**9' is not a statement of these programs"),
    ],
)
def test_what_is_no_program_or_runs_away_is_refused(lines: list[str], reason: str) -> None:
    with pytest.raises(ProgramError) as error:
        run(lines, {"a": 1}, max_value=99)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("a*=2#14", "a*=2#15"), "step 3: 'a*=2#15' is not what 'a*=2' does"),
        (("\na-=1#13", ""), "step 4 is missing: 'a-=1' is executed"),
        (("a-=1#13", "a-=1#13\na-=1#12"), "step 5: 'a-=1#12' comes after the end"),
    ],
)
def test_the_reader_says_which_step_is_wrong(change: tuple[str, str], line: str) -> None:
    problem = COMPACT.parse("a=6;a+=1;a*=2;a-=1")
    with pytest.raises(ScratchpadError) as error:
        COMPACT.read_scratchpad(problem, COMPACT.gold_scratchpad(problem).replace(*change))
    assert str(error.value) == line


@pytest.mark.parametrize("steps", [(), ("1-3", "1-3"), ("3",), ("3-1",), ("0-1",)])
def test_cells_are_different_ranges(steps: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match=r"expected (different ranges|steps=A-B)"):
        PythonPrograms(steps=steps)

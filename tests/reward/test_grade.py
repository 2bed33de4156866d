"""A grader sees the answer and the gold answer, and nothing else can move the reward."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reward
from reward import (
    GRADERS,
    GoldAnswerError,
    Outcome,
    Reward,
    check_gold,
    grade,
    grade_many,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]

HOSTILE = st.sampled_from(["</scratch>86", "<scratch>", "</scratch>", "86", "answer: 86", "\n", "\x00", "<eos>", "</s"])
SCRATCHPADS = st.lists(st.one_of(HOSTILE, st.text(max_size=12)), max_size=6).map("".join)
ANSWERS = ["86", "87", "eighty-six", " 8 6", "8" * 5000, "</scratch", "<scratch", "086"]


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """What a grader at the path `recorder:record` was called with."""
    seen: Calls = []

    def record(*args: Any, **options: Any) -> Reward:
        seen.append((args, options))
        return Reward.of(Outcome.CORRECT)

    module = ModuleType("recorder")
    module.record = record  # type: ignore[attr-defined]
    sys.modules["recorder"] = module
    yield seen
    del sys.modules["recorder"]


@given(scratchpad=SCRATCHPADS, answer=st.sampled_from(ANSWERS))
def test_no_scratchpad_changes_the_reward(scratchpad: str, answer: str) -> None:
    bare = grade("integer", f"<scratch></scratch>{answer}", "86")
    assert grade("integer", f"<scratch>{scratchpad}</scratch>{answer}", "86") == bare


@given(scratchpad=SCRATCHPADS)
def test_a_grader_receives_answer_and_gold_only(scratchpad: str, calls: Calls) -> None:
    calls.clear()
    grade("recorder:record", f"<scratch>{scratchpad}</scratch>\n85", "86")
    assert calls == [(("85", "86"), {})]


def test_options_reach_the_grader(calls: Calls) -> None:
    calls.clear()
    grade("recorder:record", "8 5", "86", spaced_digits=True)
    assert calls == [(("8 5", "86"), {"spaced_digits": True})]


@pytest.mark.parametrize("response", ["<scratch>86", "<scratch>a</scratch>", ""])
def test_a_grader_is_not_called_without_an_answer(response: str, calls: Calls) -> None:
    calls.clear()
    assert grade("recorder:record", response, "86").outcome is Outcome.UNPARSEABLE
    assert calls == []


SIGNATURES = {
    "integer": "answer gold spaced_digits thousands prefix",
    "number": "answer gold percent thousands exponent tolerance relative_tolerance",
    "text": "answer gold ignore_case collapse_spaces",
    "expression": "answer gold use",
    "math": "answer gold deadline_seconds",
    "program_output": "answer gold mode abs_tol rel_tol",
    "program": "answer gold fences mode abs_tol rel_tol cpu_seconds memory_mb",
}


def test_no_grader_can_take_a_scratchpad() -> None:
    door = ["grader", "response", "answer", "truncated", "extraction", "options"]
    assert list(inspect.signature(grade).parameters) == door
    assert list(inspect.signature(grade_many).parameters) == ["grader", "items", "extraction", "options"]
    found = {}
    for name, path in GRADERS.items():
        module, _, function = path.partition(":")
        found[name] = " ".join(inspect.signature(getattr(import_module(module), function)).parameters)
    assert found == SIGNATURES, "a new grader: add its signature here"


@pytest.mark.parametrize("name", GRADERS)
def test_everything_but_answer_and_gold_is_an_option_with_a_default(name: str) -> None:
    path, _, function = GRADERS[name].partition(":")
    module = import_module(path)
    answer, gold, *rest = inspect.signature(getattr(module, function)).parameters.values()
    assert [answer.name, gold.name] == ["answer", "gold"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    for hook in ("check_gold", "check_options"):
        if hasattr(module, hook):
            options = [p.name for p in inspect.signature(getattr(module, hook)).parameters.values() if p.name != "gold"]
            assert options == [p.name for p in rest]


GOLDS = {
    "integer": "86",
    "number": "86.5",
    "text": "Paris",
    "expression": '{"target": 3, "numbers": [1, 2]}',
    "math": "86",
    "program_output": "86",
    "program": '{"tests": [{"stdin": "", "stdout": "86"}]}',
}


@given(
    scratchpad=SCRATCHPADS, answer=st.sampled_from([*ANSWERS, "86.5", "Paris", "1+2"]), name=st.sampled_from([*GOLDS])
)
def test_no_scratchpad_changes_the_reward_of_any_grader(scratchpad: str, answer: str, name: str) -> None:
    if name == "program":  # the same path, and a process each
        return
    bare = grade(name, f"<scratch></scratch>{answer}", GOLDS[name])
    assert grade(name, f"<scratch>{scratchpad}</scratch>{answer}", GOLDS[name]) == bare
    assert bare.outcome is not Outcome.GRADER_FAILED
    assert bare.value == (bare.outcome is Outcome.CORRECT)


def refusal_of(name: str, gold: str) -> str | None:
    try:
        check_gold(name, gold)
    except GoldAnswerError as error:
        return str(error)
    return None


@given(answer=st.text(max_size=30), gold=st.text(max_size=30), name=st.sampled_from(["integer", "number", "text"]))
def test_a_gold_answer_that_is_accepted_is_correct_against_itself(answer: str, gold: str, name: str) -> None:
    if (refusal := refusal_of(name, gold)) is not None:
        assert refusal.startswith("gold answer ")
        assert "\n" not in refusal
        assert len(refusal) < 1000
        return
    module, _, function = GRADERS[name].partition(":")
    assert getattr(import_module(module), function)(gold, gold).outcome is Outcome.CORRECT
    assert isinstance(grade(name, answer, gold), Reward)


@pytest.mark.parametrize("response", ["<scratch>a</scratch>86", "86", ""])
def test_a_truncated_response_earns_nothing_whatever_it_holds(response: str) -> None:
    assert grade("integer", response, "86", truncated=True) == Reward(0.0, Outcome.TRUNCATED)


@pytest.mark.parametrize(
    ("outcome", "value"),
    [
        (Outcome.CORRECT, 1.0),
        (Outcome.WRONG, 0.0),
        (Outcome.UNPARSEABLE, 0.0),
        (Outcome.TRUNCATED, 0.0),
        (Outcome.GRADER_FAILED, 0.0),
    ],
)
def test_only_a_correct_answer_is_paid(outcome: Outcome, value: float) -> None:
    assert Reward.of(outcome).value == value
    assert len(Outcome) == 5


def test_an_unknown_grader_is_named_with_those_that_are_known() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown grader 'interger'; known: integer, number, text, .*, program, or a path"
    ):
        grade("interger", "86", "86")


def test_an_unreadable_gold_answer_is_an_error_of_the_data() -> None:
    with pytest.raises(GoldAnswerError, match="gold answer 'eighty-six' is not an integer"):
        grade("integer", "86", "eighty-six")


def test_reward_imports_the_standard_library_and_itself_only() -> None:
    folder = Path(reward.__file__).parent
    files = sorted(file for file in folder.rglob("*.py") if file != folder / "maths_worker.py")
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add((node.module or "").partition(".")[0])
    assert len(files) >= 15
    assert {"re", "reward"} <= imported
    assert imported - sys.stdlib_module_names == {"reward"}


def test_only_a_worker_process_imports_what_maths_needs() -> None:
    code = "import sys, reward.maths; print({'math_verify', 'sympy', 'reward.maths_worker'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"

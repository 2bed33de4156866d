"""A grader sees the answer and the gold answer, and nothing else can move the reward."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reward
from reward import GoldAnswerError, Outcome, Reward, grade
from reward.grade import GRADERS

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


def test_no_grader_can_take_a_scratchpad() -> None:
    assert list(inspect.signature(grade).parameters) == ["grader", "response", "answer", "truncated", "options"]
    assert list(inspect.signature(reward.integer.grade_integer).parameters) == ["answer", "gold", "spaced_digits"]
    assert list(GRADERS) == ["integer"], "a new grader: add its signature here"


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
    with pytest.raises(ValueError, match=r"^unknown grader 'interger'; known: integer, or a path"):
        grade("interger", "86", "86")


def test_an_unreadable_gold_answer_is_an_error_of_the_data() -> None:
    with pytest.raises(GoldAnswerError, match="gold answer 'eighty-six' is not an integer"):
        grade("integer", "86", "eighty-six")


def test_reward_imports_the_standard_library_and_itself_only() -> None:
    files = sorted(Path(reward.__file__).parent.rglob("*.py"))
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add((node.module or "").partition(".")[0])
    assert len(files) >= 5
    assert {"re", "reward"} <= imported
    assert imported - sys.stdlib_module_names == {"reward"}

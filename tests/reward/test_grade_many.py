"""A grader that breaks is counted, bad options stop at once, and many answers are graded as one by one."""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import (
    BadOptions,
    GoldAnswerError,
    MissingPackage,
    Outcome,
    Reward,
    check_gold,
    check_options,
    grade,
    grade_many,
)
from reward.grade import MAX_DETAIL
from reward.sandbox import SandboxUnavailable

PADS = st.text(alphabet="<>/scrath86 \n", max_size=12)


@pytest.fixture
def grader(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An empty module `made`, where a test puts a grader `made:grade`."""
    module = ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", module)
    return module


def put(module: ModuleType, **members: Any) -> None:
    for name, member in members.items():
        setattr(module, name, member)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ZeroDivisionError("a\n  b"), "ZeroDivisionError: a b"),
        (MemoryError(), "MemoryError:"),
        (RecursionError("deep"), "RecursionError: deep"),
        (KeyError("x" * 10**6), ("KeyError: '" + "x" * 10**6)[:MAX_DETAIL]),
        (TimeoutError("late"), "TimeoutError: late"),
    ],
)
def test_a_grader_that_raises_has_failed_and_says_so_in_one_line(
    grader: ModuleType, error: Exception, detail: str
) -> None:
    def fail(answer: str, gold: str) -> Reward:
        raise error

    put(grader, grade=fail)
    assert grade("made:grade", "86", "86") == Reward(0.0, Outcome.GRADER_FAILED, detail)


@pytest.mark.parametrize("returned", [True, 1.0, None, "CORRECT", Outcome.CORRECT])
def test_a_grader_that_returns_no_reward_has_failed(grader: ModuleType, returned: object) -> None:
    put(grader, grade=lambda answer, gold: returned)
    reward = grade("made:grade", "86", "86")
    assert reward.outcome is Outcome.GRADER_FAILED
    assert reward.detail == f"TypeError: the grader returned {type(returned).__name__}, not a Reward"


@pytest.mark.parametrize(
    "error",
    [GoldAnswerError("x"), BadOptions("x"), MissingPackage("x"), SandboxUnavailable("x"), KeyboardInterrupt()],
)
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_verdict_stops_the_work(grader: ModuleType, error: BaseException, outside: bool) -> None:
    def fail(answer: str, gold: str) -> Reward:
        raise error

    put(grader, grade=fail, OUTSIDE=outside)
    with pytest.raises(type(error)):
        grade_many("made:grade", [("86", "86", False)] * 3)


@given(
    items=st.lists(
        st.tuples(PADS.map(lambda s: f"<scratch>{s}</scratch>86"), st.sampled_from(["86", "87"]), st.booleans())
    )
)
def test_many_are_graded_as_one_by_one(items: list[tuple[str, str, bool]]) -> None:
    alone = [grade("integer", response, answer, truncated=cut) for response, answer, cut in items]
    assert grade_many("integer", items) == alone


def test_graders_that_wait_outside_run_side_by_side_and_results_keep_their_order(grader: ModuleType) -> None:
    together = threading.Barrier(4, timeout=10)

    def wait(answer: str, gold: str) -> Reward:
        together.wait()
        time.sleep(0.05 if answer == "0" else 0)
        return Reward.of(Outcome.CORRECT, answer)

    put(grader, grade=wait, OUTSIDE=True)
    rewards = grade_many("made:grade", [(str(i), "", False) for i in range(4)])
    assert [reward.detail for reward in rewards] == ["0", "1", "2", "3"]


def test_many_of_nothing_are_nothing() -> None:
    assert grade_many("integer", []) == []
    assert grade_many("program", []) == []


def test_the_extraction_rule_goes_with_the_options_of_any_grader() -> None:
    options = {"extraction": "boxed", "thousands": True}
    check_options("integer", options)
    check_gold("integer", "1,234", **options)
    assert grade("integer", r"\boxed{1,234}", "1,234", **options).outcome is Outcome.CORRECT
    for check in (lambda: check_options("text", {"extraction": "x"}), lambda: check_gold("text", "a", extraction="x")):
        with pytest.raises(BadOptions, match=r"^unknown extraction rule 'x'; known: tags, boxed, answer, hash$"):
            check()


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "integer",
            {"spaced": True},
            "grader 'integer' has no option 'spaced'; known: spaced_digits, thousands, prefix",
        ),
        ("integer", {"thousands": "yes"}, "grader 'integer': option thousands is 'yes'; expected bool"),
        ("integer", {"thousands": 1}, "grader 'integer': option thousands is 1; expected bool"),
        ("program", {"memory_mb": "512"}, "grader 'program': option memory_mb is '512'; expected int"),
        ("program", {"memory_mb": 1}, "grader 'program': limits: memory_mb must be between 64 and .*"),
        ("program", {"cpu_seconds": float("nan")}, "grader 'program': limits: cpu_seconds must be between .*"),
        ("program_output", {"mode": "set"}, "unknown comparison mode 'set'; known: exact, lines, .*"),
        ("math", {"deadline_seconds": 0}, "grader 'math': deadline_seconds is 0; expected a number from 0.05 to 600"),
        ("nosuch.module:grade", {}, "grader 'nosuch.module:grade' cannot be imported: No module named 'nosuch'"),
        (
            "reward.integer:nosuch",
            {},
            "grader 'reward.integer:nosuch': there is no function 'nosuch' in reward.integer",
        ),
    ],
)
def test_bad_options_are_one_line_before_anything_is_graded(name: str, options: dict[str, Any], line: str) -> None:
    for check in (
        lambda: check_options(name, options),
        lambda: check_gold(name, "86", **options),
        lambda: grade_many(name, [], **options),
        lambda: grade(name, "<scratch>", "86", **options),
    ):
        with pytest.raises(BadOptions, match=f"^{line}$"):
            check()


@pytest.mark.parametrize("gold", [86, None, ["86"], 86.0])
def test_a_gold_answer_that_is_no_text_is_an_error_of_the_data(gold: Any) -> None:
    with pytest.raises(GoldAnswerError, match=r"^gold answer .* is (int|NoneType|list|float), not text$"):
        check_gold("integer", gold)

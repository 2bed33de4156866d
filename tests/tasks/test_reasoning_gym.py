"""reasoning-gym: the contract on two of its data sets, and no pay for text around an answer on many more."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.tasks.reasoning_gym import ReasoningGym, grade_entry
from latentpad.types import Problem
from reward import GoldAnswerError, Outcome, grade
from reward.grade import check_gold
from tests.tasks.contract import TaskContract

needs_the_library = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="pip install 'latentpad[gym]'")
SUM = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


@needs_the_library
class TestReasoningGym(TaskContract):
    worked = False
    small_cell = "level=small"
    nonsense = ("level=", "level=3", "all")
    checked = 5

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        levels = {"small": SUM, "large": {**SUM, "min_digits": 3, "max_digits": 4}}
        return {"name": "reasoning_gym", "dataset": "chain_sum", "config": {"allow_negation": False}, "levels": levels}

    def differ(self, one: Problem, other: Problem) -> bool:
        return bool(json.loads(one.answer)["answer"] != json.loads(other.answer)["answer"])


# The library pays 1.0 for text around the answer in those of the second line.
DATASETS = [
    "chain_sum",
    "gcd",
    "spell_backward",
    "countdown",
    "simple_equations",
    "word_sorting",
    "polynomial_equations",
]
LENIENT = ["gsm_symbolic", "game_of_life_halting", "knights_knaves", "quantum_lock"]


@needs_the_library
@pytest.mark.parametrize("dataset", DATASETS + LENIENT)
def test_text_that_contains_the_answer_is_paid_nothing(dataset: str) -> None:
    task = ReasoningGym(dataset)
    problems = task.distinct("test", "all", 3)
    assert len(problems) == 3
    for problem in problems:
        gold = task.solution(problem)
        assert grade(task.grader, gold, problem.answer).outcome is Outcome.CORRECT
        for around in ("The answer is {0}", "{0} or 17", "17 or {0}", "{0}\n{0}", "{0} {0}", "{0} is it", "<b>{0}</b>"):
            verdict = grade(task.grader, around.format(gold), problem.answer)
            assert verdict.outcome in (Outcome.WRONG, Outcome.UNPARSEABLE), around.format(gold)


@needs_the_library
def test_another_right_answer_is_right_where_the_librarys_check_is_strict() -> None:
    task = ReasoningGym("countdown", {"min_numbers": 3, "max_numbers": 3})
    problem = task.draw("train", "all", "a")
    gold = task.solution(problem)
    assert grade(task.grader, f"({gold})", problem.answer).outcome is Outcome.CORRECT
    assert grade(task.grader, f"({gold})+1", problem.answer).outcome is Outcome.WRONG
    assert grade(task.grader, "1+", problem.answer).outcome in (Outcome.WRONG, Outcome.UNPARSEABLE)


@needs_the_library
def test_neighbouring_names_share_no_questions() -> None:
    task = ReasoningGym("chain_sum", {"min_digits": 4, "max_digits": 6})
    one, other = ({task.draw("train", "all", f"{run}/{i}").question for i in range(50)} for run in (42, 43))
    assert len(one) == len(other) == 50
    assert not one & other


@needs_the_library
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dataset": "chain_sun"}, r"unknown data set 'chain_sun' of reasoning_gym; did you mean 'chain_sum'\?"),
        ({"dataset": "chain_sum", "config": {"terms": 2}}, r"^task\.config: chain_sum cannot make 'all'.*terms"),
        ({"dataset": "chain_sum", "config": {"min_terms": 0}}, r"^task\.config: .*min_terms must be positive"),
        ({"dataset": "chain_sum", "config": {"seed": 1}}, r"^task\.config: remove 'seed'; every entry gets its own"),
        ({"dataset": "propositional_logic"}, r"propositional_logic, cell 'all': the library does not pay 1\.0 for"),
        (
            {"dataset": "gcd", "config": {"min_numbers": 2, "max_numbers": 2, "min_value": 7, "max_value": 8}},
            r"none of 3000 entries is in split",
        ),
    ],
)
def test_what_the_library_cannot_do_is_told(options: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why) as error:
        ReasoningGym(**options).draw("validation", "all", "a")
    assert "\n" not in str(error.value)


def test_without_the_library_the_machine_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MachineError, match=r"^task 'reasoning_gym' needs the library: pip install 'latentpad\[gym\]'$"):
        ReasoningGym("chain_sum")


def test_a_gold_answer_that_names_no_entry_is_an_error_of_the_data() -> None:
    with pytest.raises(GoldAnswerError):
        grade_entry("1", "1")
    with pytest.raises(GoldAnswerError):
        check_gold("latentpad.tasks.reasoning_gym:grade_entry", '{"dataset": "chain_sum"}')

"""Mixtures of rationales and answers: shares, few problems shown often, and rationales that are not to be taught."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.tasks import ScratchpadError, build_task
from latentpad.tasks.addition import Addition
from latentpad.training.examples import supervised_examples
from latentpad.training.rationales import Rationales, mixture_examples
from tests import tiny

if TYPE_CHECKING:
    from latentpad.recipe.schema import Recipe
    from latentpad.training.corpus import Example
    from latentpad.types import Problem

TASK = Addition(digits=(2,))


@dataclass(frozen=True)
class Lies(Addition):
    """Scratchpads of sums that end in a digit below `below` lead elsewhere; every other one of them is not readable."""

    below: int = 4

    def lies(self, problem: Problem) -> bool:
        return int(problem.answer[-1]) < self.below

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        if not self.lies(problem):
            return super().read_scratchpad(problem, scratchpad)
        if int(problem.answer[-1]) % 2:
            raise ScratchpadError("line 1: a lie")
        return problem.answer + "0"


def recipe(target: str = "mixture", *, steps: int = 50, **changes: Any) -> Recipe:
    section = {"target": target, **({"rationale_share": 0.25} if target == "mixture" else {}), **changes}
    return tiny.recipe("supervised", task={"digits": [2]}, supervised=section, training={"steps": steps})


def is_worked(example: Example) -> bool:
    return "<scratch>" in example.response


def shown(made: Recipe, task: Addition = TASK) -> list[Example]:
    return mixture_examples(made, task, tiny.COMPACT)[0]


def test_a_share_of_the_examples_shows_a_rationale_and_the_rest_is_as_for_answers_alone() -> None:
    mixed = shown(recipe(steps=250))
    answers, scratchpads = (
        supervised_examples(recipe(target, steps=250), TASK, tiny.COMPACT) for target in ("answer", "scratchpad")
    )
    assert len(mixed) == 1000
    assert 210 < sum(map(is_worked, mixed)) < 290  # 250, three standard deviations of 13.7 either way
    assert mixed == [w if is_worked(m) else a for m, a, w in zip(mixed, answers, scratchpads, strict=True)]
    assert shown(recipe(steps=250)) == mixed


def test_with_a_share_of_1_a_mixture_is_the_scratchpad_target() -> None:
    assert shown(recipe(rationale_share=1.0)) == supervised_examples(recipe("scratchpad"), TASK, tiny.COMPACT)


def test_few_rationales_are_shown_alike_and_answers_stay_fresh() -> None:
    mixed = shown(recipe(steps=250, rationale_share=0.8, rationales=5))
    worked = Counter(e.prompt for e in mixed if is_worked(e))
    assert len(worked) == 5
    assert all(110 < times < 210 for times in worked.values())  # 160 each, four standard deviations of 11.3
    answers = supervised_examples(recipe("answer", steps=250), TASK, tiny.COMPACT)
    alone = [(m, a) for m, a in zip(mixed, answers, strict=True) if not is_worked(m)]
    assert len(alone) > 150
    assert all(m == a for m, a in alone)


def test_more_rationales_begin_with_the_few() -> None:
    few, more = (Rationales(recipe(), TASK).different(n) for n in (3, 9))
    assert few == more[:3]
    assert len({TASK.canonical(problem) for problem in more}) == 9


def test_a_rationale_that_does_not_lead_to_the_gold_answer_is_never_taught_and_counted() -> None:
    task = Lies(digits=(2,))
    mixed, line = mixture_examples(recipe(rationale_share=0.5), task, tiny.COMPACT)
    endings = Counter(e.response[-1] for e in mixed if is_worked(e))
    assert set(endings) <= set("456789")
    assert {e.response[-1] for e in mixed if not is_worked(e)} & set("0123")
    worked = sum(endings.values())
    left_out = int(line.split()[1])
    assert line == (f"rationales: {left_out} of {worked + left_out} did not lead to the gold answer and were left out")
    assert 0.25 < left_out / (worked + left_out) < 0.55  # four endings of ten
    assert mixture_examples(recipe(), TASK, tiny.COMPACT)[1].endswith("that were looked at lead to the gold answer")


def test_the_next_draw_takes_the_place_of_what_is_left_out() -> None:
    task = Lies(digits=(2,))
    found = [Rationales(recipe(), task).problem("supervised", i) for i in range(40)]
    assert not any(map(task.lies, found))
    honest = [Rationales(recipe(), TASK).problem("supervised", i) for i in range(40)]
    assert [f == h for f, h in zip(found, honest, strict=True)] == [not task.lies(h) for h in honest]


@pytest.mark.parametrize("rationales", [None, 3])
def test_where_nearly_all_rationales_are_wrong_the_run_is_refused(rationales: int | None) -> None:
    with pytest.raises(RecipeError, match=r"\Asupervised\.target: 'mixture' left out 50 of 50 rationales.*\Z"):
        mixture_examples(recipe(rationales=rationales), Lies(digits=(2,), below=10), tiny.COMPACT)


def test_more_rationales_than_there_are_problems_are_refused() -> None:
    made, fits = (
        tiny.recipe("supervised", supervised={"target": "mixture", "rationale_share": 1.0, "rationales": n})
        for n in (56, 55)
    )
    task = build_task(made.task)  # one digit: 55 unordered pairs
    with pytest.raises(RecipeError, match=r"\Asupervised\.rationales: got 56; the cells hold only about 55 different"):
        mixture_examples(made, task, tiny.COMPACT)
    assert len({e.prompt for e in mixture_examples(fits, task, tiny.COMPACT)[0]}) > 20

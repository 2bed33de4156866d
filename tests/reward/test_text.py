"""The same text: what may differ is stated, and nothing else may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import GoldAnswerError, Outcome, check_gold
from reward.text import grade_text


@pytest.mark.parametrize(
    ("answer", "gold", "options", "right"),
    [
        ("Paris", "Paris", {}, True),
        (" Paris\n", "Paris", {}, True),
        ("paris", "Paris", {}, False),
        ("paris", "Paris", {"ignore_case": True}, True),
        ("STRASSE", "Straße", {"ignore_case": True}, True),
        ("New  York", "New York", {}, False),
        ("New \n York", "New York", {"collapse_spaces": True}, True),
        ("NewYork", "New York", {"collapse_spaces": True}, False),
        ("Paris.", "Paris", {}, False),
        ("Paris or Rome", "Paris", {}, False),
        ("e\u0301", "\u00e9", {}, False),
        ("\uff11", "1", {"ignore_case": True, "collapse_spaces": True}, False),
        ("1\u200b", "1", {"collapse_spaces": True}, False),
        ("", "Paris", {}, False),
    ],
)
def test_a_table_of_texts(answer: str, gold: str, options: dict[str, bool], right: bool) -> None:
    assert grade_text(answer, gold, **options).outcome is (Outcome.CORRECT if right else Outcome.WRONG)


@given(st.text(), st.text())
def test_correct_is_the_same_code_points(answer: str, gold: str) -> None:
    if gold.strip():
        assert grade_text(gold, gold).outcome is Outcome.CORRECT
        assert (grade_text(answer, gold).outcome is Outcome.CORRECT) == (answer.strip() == gold.strip())


@pytest.mark.parametrize("gold", ["", " \n"])
def test_an_empty_gold_answer_is_an_error_of_the_data(gold: str) -> None:
    with pytest.raises(GoldAnswerError, match="is empty"):
        check_gold("text", gold)

"""The same text, character by character."""

from __future__ import annotations

from reward.types import GoldAnswerError, Outcome, Reward


def _normal(text: str, ignore_case: bool, collapse_spaces: bool) -> str:
    text = " ".join(text.split()) if collapse_spaces else text.strip()
    return text.casefold() if ignore_case else text


def check_gold(gold: str, *, ignore_case: bool = False, collapse_spaces: bool = False) -> None:
    """Raise `GoldAnswerError` if there is nothing to compare with."""
    if not gold.strip():
        raise GoldAnswerError.of(gold, "is empty")


def grade_text(answer: str, gold: str, *, ignore_case: bool = False, collapse_spaces: bool = False) -> Reward:
    """CORRECT if both are the same code points, but for white space around them. No Unicode normalisation.

    Args:
        answer: the answer and nothing else.
        gold: the gold answer.
        ignore_case: compare Unicode case foldings (`Straße` is `STRASSE`).
        collapse_spaces: any run of Unicode white space, line breaks too, is one space.

    Raises:
        GoldAnswerError: if `gold` is empty.
    """
    check_gold(gold)
    same = _normal(answer, ignore_case, collapse_spaces) == _normal(gold, ignore_case, collapse_spaces)
    return Reward.of(Outcome.CORRECT if same else Outcome.WRONG)

"""What a grader says: a typed record, never a bare number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Why a response got its reward."""

    CORRECT = "CORRECT"
    WRONG = "WRONG"
    UNPARSEABLE = "UNPARSEABLE"
    TRUNCATED = "TRUNCATED"
    GRADER_FAILED = "GRADER_FAILED"


@dataclass(frozen=True, slots=True)
class Reward:
    """The verdict on one response.

    Attributes:
        value: what the policy is paid: 1.0 for CORRECT, else 0.0. Never read it without `outcome`: a grader that broke
            also has value 0.0, and must not be trained on.
        outcome: why.
        detail: one line for people; empty if there is nothing to add.
    """

    value: float
    outcome: Outcome
    detail: str = ""

    @classmethod
    def of(cls, outcome: Outcome, detail: str = "") -> Reward:
        """The reward that goes with an outcome."""
        return cls(1.0 if outcome is Outcome.CORRECT else 0.0, outcome, detail)


class GoldAnswerError(ValueError):
    """The data's own answer cannot be read: an error of the data set, never a reward of 0."""

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

    @classmethod
    def of(cls, gold: str, why: str) -> GoldAnswerError:
        """The line that shows the answer, cut to 80 characters, and says what is wrong with it.

        >>> print(GoldAnswerError.of("eighty-six", "is not an integer"))
        gold answer 'eighty-six' is not an integer
        """
        return cls(f"gold answer {gold[:80]!r} {why}")


class BadOptions(ValueError):  # noqa: N818 (the name that recipes' errors use)
    """The options of a grader, or its name, or the extraction rule: one line, found before anything is graded."""


class MissingPackage(RuntimeError):  # noqa: N818 (says what is wrong)
    """A grader needs a package that is not installed: the machine's fault, never a reward of 0."""

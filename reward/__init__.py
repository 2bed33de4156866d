"""What counts as right. Standard library only; usable on its own: `reward.grade("integer", response, answer)`."""

from reward.extract import (
    CLOSE_TAG,
    EXTRACTION_RULES,
    OPEN_TAG,
    extract_answer,
    extract_scratchpad,
    writes_scratchpad,
)
from reward.grade import GRADERS, check_gold, check_options, grade, grade_many
from reward.types import BadOptions, GoldAnswerError, MissingPackage, Outcome, Reward

__all__ = [
    "CLOSE_TAG",
    "EXTRACTION_RULES",
    "GRADERS",
    "OPEN_TAG",
    "BadOptions",
    "GoldAnswerError",
    "MissingPackage",
    "Outcome",
    "Reward",
    "check_gold",
    "check_options",
    "extract_answer",
    "extract_scratchpad",
    "grade",
    "grade_many",
    "writes_scratchpad",
]

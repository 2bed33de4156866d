"""What counts as right. Standard library only; usable on its own: `reward.grade("integer", response, answer)`."""

from reward.extract import CLOSE_TAG, OPEN_TAG, extract_answer, extract_scratchpad, writes_scratchpad
from reward.grade import grade
from reward.types import GoldAnswerError, Outcome, Reward

__all__ = [
    "CLOSE_TAG",
    "OPEN_TAG",
    "GoldAnswerError",
    "Outcome",
    "Reward",
    "extract_answer",
    "extract_scratchpad",
    "grade",
    "writes_scratchpad",
]

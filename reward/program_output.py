"""What does this program print, or return? The gold answer is the output of a run made earlier; nothing is run here."""

from __future__ import annotations

from reward import compare
from reward.compare import ABS_TOL, REL_TOL, check_options
from reward.number import Tolerance
from reward.types import GoldAnswerError, Outcome, Reward

__all__ = ["check_gold", "check_options", "grade_program_output"]


def check_gold(gold: str, *, mode: str = "lines", abs_tol: Tolerance = ABS_TOL, rel_tol: Tolerance = REL_TOL) -> None:
    """Raise `GoldAnswerError` unless the mode can read the output, and there is some."""
    if not gold.strip():
        raise GoldAnswerError.of(gold, "is empty: no answer can spell an output of nothing")
    compare.check_expected(gold.strip(), mode=mode)


def grade_program_output(
    answer: str, gold: str, *, mode: str = "lines", abs_tol: Tolerance = ABS_TOL, rel_tol: Tolerance = REL_TOL
) -> Reward:
    """CORRECT if the answer is the output, white space around both left out, for an answer comes without any.

    Args:
        answer: the answer and nothing else.
        gold: what the program printed, or the `repr` of what it returned (then `mode` is `value`).
        mode: a name in `reward.compare.MODES`.
        abs_tol: see `reward.compare.compare`.
        rel_tol: see `reward.compare.compare`.

    Raises:
        GoldAnswerError: if `gold` is empty or not in the mode's spelling.
    """
    check_gold(gold, mode=mode)
    outcome = compare.compare(answer.strip(), gold.strip(), mode=mode, abs_tol=abs_tol, rel_tol=rel_tol)
    unreadable = outcome is Outcome.UNPARSEABLE
    return Reward.of(outcome, f"{answer[:80]!r} cannot be read by the comparison {mode!r}" if unreadable else "")

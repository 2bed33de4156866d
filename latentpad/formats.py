"""How a problem, a scratchpad and an answer become text."""

from __future__ import annotations

from dataclasses import dataclass

from latentpad.recipe.errors import RecipeError, unknown
from reward import CLOSE_TAG, OPEN_TAG


@dataclass(frozen=True, slots=True)
class Format:
    """Templates around what the task spells.

    Attributes:
        before: stands before the question.
        after: stands between the question and the response.
        line_break: stands inside the tags and after the closing one.
    """

    before: str
    after: str
    line_break: str

    def prompt(self, question: str) -> str:
        """What the policy reads."""
        return f"{self.before}{question}{self.after}"

    def response(self, answer: str, scratchpad: str | None = None) -> str:
        """What a supervised arm is taught to write: the answer, after its worked steps if there are any."""
        if scratchpad is None:
            return answer
        br = self.line_break
        return f"{OPEN_TAG}{br}{scratchpad}{br}{CLOSE_TAG}{br}{answer}"

    @property
    def alphabet(self) -> str:
        """Every character of the templates (tags are tokens of their own)."""
        return f"{self.before}{self.after}{self.line_break}"


FORMATS = {
    # Nye et al. 2021, figure 2, to the letter.
    "nye": Format(before="Input:\n", after="\n\nTarget:\n", line_break="\n"),
    # As short as it goes, for tokenizers that read characters.
    "compact": Format(before="", after="=", line_break=""),
    # For questions of several lines: what is written begins a line of its own.
    "lines": Format(before="", after="\n", line_break="\n"),
}


def get_format(name: str) -> Format:
    """The format that a recipe names. Raises `RecipeError`."""
    if name not in FORMATS:
        raise RecipeError(f"format: {unknown('format', name, FORMATS)}")
    return FORMATS[name]

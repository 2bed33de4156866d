"""How a problem, a scratchpad and an answer become text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from latentpad.recipe.errors import RecipeError, unknown
from reward import CLOSE_TAG, OPEN_TAG


@dataclass(frozen=True, slots=True)
class Format:
    """Templates around what the task spells.

    Attributes:
        before: stands before the question.
        after: stands between the question and the response.
        line_break: stands inside the tags and after the closing one.
        ends: text before any of which an evaluated response ends, as if it were a stop token: what a model writes that
            goes on to a next example.
    """

    before: str
    after: str
    line_break: str
    ends: tuple[str, ...] = ()

    def prompt(self, question: str) -> str:
        """What the policy reads."""
        return f"{self.before}{question}{self.after}"

    def response(self, answer: str, scratchpad: str | None = None) -> str:
        """What a supervised arm is taught to write: the answer, after its worked steps if there are any."""
        if scratchpad is None:
            return answer
        br = self.line_break
        return f"{OPEN_TAG}{br}{scratchpad}{br}{CLOSE_TAG}{br}{answer}"

    def after_examples(self, examples: Sequence[tuple[str, str]], separator: str) -> Format:
        """The format with examples (question, response) before every question; its responses end at a separator."""
        shown = "".join(f"{self.prompt(question)}{response}{separator}" for question, response in examples)
        return replace(self, before=f"{shown}{self.before}", ends=(separator,))

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


CHAT = "chat"
# Stands for the question while the template is cut in two around it.
_MARK = "\ue000"


@dataclass(frozen=True, slots=True)
class ChatFormat(Format):
    """What a checkpoint's chat template puts around the question, which is the user's message.

    Attributes:
        render: from messages to text, up to where the assistant's next one begins.
    """

    render: Callable[[list[dict[str, str]]], str] = lambda messages: messages[-1]["content"]

    @classmethod
    def of(cls, render: Callable[[list[dict[str, str]]], str], earlier: Sequence[Mapping[str, str]] = ()) -> ChatFormat:
        """Cut out of the template, the earlier turns in it. Raises `RecipeError` if it changes what the user says."""
        text = render([*map(dict, earlier), {"role": "user", "content": _MARK}])
        if text.count(_MARK) != 1:
            raise RecipeError("format: 'chat' needs a chat template that shows the user's message once, and as it is")
        before, _, after = text.partition(_MARK)
        return cls(before, after, "\n", (), render)

    def after_examples(self, examples: Sequence[tuple[str, str]], separator: str) -> Format:
        """Examples as earlier turns. Nothing is cut at a separator: a turn ends with a token of its own."""
        turns = [
            {"role": role, "content": content}
            for example in examples
            for role, content in zip(("user", "assistant"), example, strict=True)
        ]
        return ChatFormat.of(self.render, turns)


@cache
def _chat_format(folder: str) -> ChatFormat:
    if not Path(folder).is_dir():
        raise RecipeError(f"model.path: no such folder: {folder}")
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise RecipeError(
            f"format: 'chat' needs a tokenizer with a chat template; {folder} has none: take another format"
        )

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return ChatFormat.of(render)


def get_format(name: str, folder: str | None = None) -> Format:
    """The format that a recipe names.

    Args:
        name: one of `FORMATS`, or `chat`: the chat template of the checkpoint that the recipe starts from.
        folder: of that checkpoint, None for a model from scratch.

    Raises:
        RecipeError: there is no such format, or no such template.
    """
    if name == CHAT:
        if folder is None:
            raise RecipeError("format: 'chat' is the chat template of a checkpoint: give 'model.path'")
        return _chat_format(folder)
    if name not in FORMATS:
        raise RecipeError(f"format: {unknown('format', name, [*FORMATS, CHAT])}")
    return FORMATS[name]

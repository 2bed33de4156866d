"""The one place where a response is cut into scratchpad and answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reward.types import BadOptions

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_TAG = "<scratch>"
CLOSE_TAG = "</scratch>"

_BOX_TOKENS = re.compile(r"\\boxed(?![A-Za-z])|\\.|[{}]", re.DOTALL)


def extract_answer(
    response: str, *, rule: str = "tags", open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG
) -> str | None:
    r"""The final answer of a response, or None if there is none to grade.

    Every rule reads the text after the last closing tag and nothing else; a response with no tag at all is all answer
    text. A scratchpad that is opened and never closed has no answer. Only the response is read: a tag inside the prompt
    has no say. The answer comes without surrounding white space; an empty one is none.

    Args:
        response: what the policy wrote.
        rule: a name in `EXTRACTION_RULES`. `tags` takes the whole text. The others are for models that were trained to
            mark their answer: the mark must be there exactly once, and several marks are no answer.
        open_tag: what opens a scratchpad.
        close_tag: what closes it.

    Raises:
        BadOptions: if there is no such rule.

    >>> extract_answer("<scratch>2+5,6C:1</scratch>86"), extract_answer("86"), extract_answer("<scratch>86")
    ('86', '86', None)
    >>> extract_answer("<scratch></scratch>1</scratch>86")
    '86'
    >>> extract_answer(r"So it is \boxed{\frac{1}{2}}.", rule="boxed")
    '\\frac{1}{2}'
    >>> extract_answer("<answer>86</answer> or <answer>87</answer>", rule="answer") is None
    True
    >>> extract_answer("47 + 39 is 86.\n#### 86\n", rule="hash")
    '86'
    """
    check_rule(rule)
    _, closed, after = response.rpartition(close_tag)
    text = after if closed else response
    if open_tag in text:
        return None
    return (EXTRACTION_RULES[rule](text) or "").strip() or None


def check_rule(rule: str) -> None:
    """Raise `BadOptions` unless there is such a rule."""
    if rule not in EXTRACTION_RULES:
        raise BadOptions(f"unknown extraction rule {rule!r}; known: {', '.join(EXTRACTION_RULES)}")


def _whole(text: str) -> str | None:
    return text


def _boxed(text: str) -> str | None:
    r"""What the one `\boxed{...}` holds.

    A second `\boxed`, also one inside the first or one without braces, is no answer; so are braces that do not close.
    A backslash takes the character after it along: `\{` and `\}` open and close nothing, `\\boxed` is no box. There is
    no space between `\boxed` and its brace.
    """
    boxes, depth, start, end = 0, 0, 0, -1
    for token in _BOX_TOKENS.finditer(text):
        if token[0] == "\\boxed":
            boxes += 1
            start = token.end()
            if boxes > 1 or not text.startswith("{", start):
                return None
        elif boxes and end < 0 and token[0] in "{}":
            depth += 1 if token[0] == "{" else -1
            if depth == 0:
                end = token.start()
    return text[start + 1 : end] if end >= 0 else None


def _answer_tag(text: str) -> str | None:
    """What stands in the one `<answer>...</answer>`: one opening and one closing tag in all, spelled exactly so."""
    before, _, rest = text.partition("<answer>")
    inside, closed, after = rest.partition("</answer>")
    extra = any(tag in part for tag in ("<answer>", "</answer>") for part in (before, inside, after))
    return inside if closed and not extra else None


def _hash(text: str) -> str | None:
    r"""The rest of the line after the one `#### ` (GSM8K), with nothing but white space in the lines below it.

    Four hashes anywhere else, or a fifth, are a second mark: no answer. Only `\n` ends a line.
    """
    _, found, after = text.partition("#### ")
    line, _, below = after.partition("\n")
    return line if found and text.count("####") == 1 and not below.strip() and "#####" not in text else None


EXTRACTION_RULES: dict[str, Callable[[str], str | None]] = {
    "tags": _whole,
    "boxed": _boxed,
    "answer": _answer_tag,
    "hash": _hash,
}


def extract_scratchpad(response: str, *, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG) -> str:
    """What stands before the answer, tags included; empty where there is no scratchpad. For people and statistics only.

    >>> extract_scratchpad("<scratch>2+5,6C:1</scratch>86")
    '<scratch>2+5,6C:1</scratch>'
    """
    before, closed, after = response.rpartition(close_tag)
    if closed:
        return before + closed
    return after if open_tag in after else ""


def writes_scratchpad(response: str, *, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG) -> bool:
    """Whether the response opens a scratchpad, writes something other than white space into it, and closes it.

    >>> writes_scratchpad("<scratch>2+5,6C:1</scratch>86"), writes_scratchpad("<scratch></scratch>86")
    (True, False)
    """
    _, opened, rest = response.partition(open_tag)
    inside, closed, _ = rest.rpartition(close_tag)
    return bool(opened and closed and inside.replace(open_tag, "").replace(close_tag, "").strip())

"""The one place where a response is cut into scratchpad and answer."""

from __future__ import annotations

OPEN_TAG = "<scratch>"
CLOSE_TAG = "</scratch>"


def extract_answer(response: str, *, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG) -> str | None:
    """The final answer of a response, or None if there is none to grade.

    The answer is the whole text after the last closing tag, without surrounding white space. A response with no tag at
    all is all answer. A scratchpad that is opened and never closed has no answer, and nor has a response with nothing
    but white space there. Only the response is read: a tag inside the prompt has no say.

    >>> extract_answer("<scratch>2+5,6C:1</scratch>86")
    '86'
    >>> extract_answer("86")
    '86'
    >>> extract_answer("<scratch>86") is None
    True
    >>> extract_answer("<scratch></scratch>1</scratch>86")
    '86'
    """
    _, closed, after = response.rpartition(close_tag)
    answer = after if closed else response
    if open_tag in answer:
        return None
    return answer.strip() or None


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

"""Where a response is cut: the answer is what follows the last closing tag, and nothing in the scratchpad moves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import Outcome, Reward, extract_answer, extract_scratchpad, grade, writes_scratchpad

HOSTILE = st.sampled_from(
    [
        "<scratch>",
        "</scratch>",
        "86",
        "</scratch>86",
        "<scr",
        "</scratch",
        ">",
        "\n",
        "\x00",
        " ",
        "<eos>",
        "\uff18\uff16",
        "=",
    ]
)
SCRATCHPADS = st.lists(st.one_of(HOSTILE, st.text(max_size=8)), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<scratch>2+5,6C:1</scratch>86", "86"),
        ("<scratch>\n2 + 5\n</scratch>\n8 6", "8 6"),
        ("86", "86"),
        ("  86\n", "86"),
        ("<scratch></scratch>86", "86"),
        ("<scratch>a</scratch>b</scratch>86", "86"),
        ("<scratch>a</scratch>1<scratch>b</scratch>86", "86"),
        ("</scratch>86", "86"),
        ("86</scratch>87", "87"),
        ("<scratch>a</scratch>8 6 or 87", "8 6 or 87"),
        ("<SCRATCH>86", "<SCRATCH>86"),
    ],
)
def test_the_answer_is_all_that_follows_the_last_closing_tag(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n\t",
        "<scratch>86",
        "86<scratch>",
        "<scratch>a</scratch>",
        "<scratch>a</scratch> \n",
        "<scratch>a</scratch>86<scratch>",
        "<scratch>a</scratch><scratch>86",
        "86</scratch>",
    ],
)
def test_no_answer_where_nothing_follows_or_a_scratchpad_stays_open(response: str) -> None:
    assert extract_answer(response) is None
    assert grade("integer", response, "86") == Reward(0.0, Outcome.UNPARSEABLE, "no answer after the scratchpad")


@given(SCRATCHPADS)
def test_no_scratchpad_changes_the_answer(scratchpad: str) -> None:
    assert extract_answer(f"<scratch>{scratchpad}</scratch>86") == "86"


@given(SCRATCHPADS, SCRATCHPADS)
def test_no_answer_is_cut_out_of_an_open_scratchpad(before: str, inside: str) -> None:
    inside = inside.replace("</scratch>", "")
    assert extract_answer(f"{before}<scratch>{inside}") is None


@given(SCRATCHPADS)
def test_scratchpad_and_answer_together_are_the_response(response: str) -> None:
    answer = extract_answer(response)
    left_over = response.removeprefix(extract_scratchpad(response))
    assert answer is None or left_over.strip() == answer


def test_the_scratchpad_comes_with_its_tags() -> None:
    assert extract_scratchpad("<scratch>a</scratch>b</scratch>86") == "<scratch>a</scratch>b</scratch>"
    assert extract_scratchpad("<scratch>cut short") == "<scratch>cut short"
    assert extract_scratchpad("86") == ""


@pytest.mark.parametrize(
    ("response", "written"),
    [
        ("<scratch>a</scratch>86", True),
        ("<scratch></scratch>86", False),
        ("<scratch> \n</scratch>86", False),
        ("<scratch><scratch></scratch></scratch>86", False),
        ("<scratch>a", False),
        ("a</scratch>86", False),
        ("86", False),
        ("</scratch>a<scratch>86", False),
    ],
)
def test_a_scratchpad_counts_as_written_when_opened_filled_and_closed(response: str, written: bool) -> None:
    assert writes_scratchpad(response) is written


def test_other_tags_can_be_asked_for() -> None:
    assert extract_answer("<think>a</think>86", open_tag="<think>", close_tag="</think>") == "86"
    assert extract_answer("<think>86", open_tag="<think>", close_tag="</think>") is None

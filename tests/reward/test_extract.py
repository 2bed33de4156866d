"""Where a response is cut: the answer is what follows the last closing tag, and nothing in the scratchpad moves it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import (
    EXTRACTION_RULES,
    BadOptions,
    Outcome,
    Reward,
    extract_answer,
    extract_scratchpad,
    grade,
    writes_scratchpad,
)

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
        "\\boxed{",
        "\\boxed{87}",
        "}",
        "{",
        "\\",
        "<answer>",
        "</answer>",
        "<answer>87</answer>",
        "#### 87",
        "####",
        "\n#### ",
    ]
)
RULES = {"tags": "86", "boxed": r"So \boxed{86}.", "answer": "So <answer>86</answer>.", "hash": "47+39=86\n#### 86\n"}
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


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("boxed", r"\boxed{86}", "86"),
        ("boxed", r"$\boxed{86}$, so there.", "86"),
        ("boxed", r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        ("boxed", r"\boxed{\{1,2\}}", r"\{1,2\}"),
        ("boxed", r"\boxed{a\\}b}", r"a\\"),
        ("boxed", r"} { \boxed{86} } {", "86"),
        ("boxed", r"\boxed{86}\boxedtext", "86"),
        ("boxed", "\\boxed{8\n6}", "8\n6"),
        ("answer", "<answer>86</answer>", "86"),
        ("answer", "so <answer>\n8 6 </answer> there", "8 6"),
        ("answer", "<answer><b>86</b></answer>", "<b>86</b>"),
        ("hash", "#### 86", "86"),
        ("hash", "47+39=86\n#### 86 \n\n", "86"),
        ("hash", "so #### 86", "86"),
        ("hash", "# one\n#### 8 6", "8 6"),
    ],
)
def test_a_rule_finds_the_one_marked_answer(rule: str, text: str, answer: str) -> None:
    assert extract_answer(text, rule=rule) == answer
    assert extract_answer(f"<scratch>{text}</scratch>{text}", rule=rule) == answer


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("boxed", "86"),
        ("boxed", r"\boxed{}"),
        ("boxed", r"\boxed{ }"),
        ("boxed", r"\boxed{86} \boxed{86}"),
        ("boxed", r"\boxed{\boxed{86}}"),
        ("boxed", r"\boxed{86} \boxed"),
        ("boxed", r"\boxed 86"),
        ("boxed", r"\boxed {86}"),
        ("boxed", r"\boxed{86"),
        ("boxed", r"\boxed{8{6}"),
        ("boxed", r"\boxed{86\}"),
        ("boxed", r"\\boxed{86}"),
        ("boxed", r"\Boxed{86}"),
        ("boxed", r"\fbox{86}"),
        ("answer", "86"),
        ("answer", "<answer></answer>"),
        ("answer", "<answer>86"),
        ("answer", "86</answer>"),
        ("answer", "<answer>86</answer><answer>87</answer>"),
        ("answer", "<answer><answer>86</answer>"),
        ("answer", "<answer>86</answer></answer>"),
        ("answer", "</answer><answer>86</answer>"),
        ("answer", "</answer>86<answer>"),
        ("answer", "<Answer>86</Answer>"),
        ("answer", "<answer >86</answer>"),
        ("hash", "86"),
        ("hash", "####86"),
        ("hash", "#### "),
        ("hash", "#### \n86"),
        ("hash", "#### 86\n#### 86"),
        ("hash", "#### 86\nor 87"),
        ("hash", "##### 86"),
        ("hash", "######## 86"),
        ("hash", "#### 86 ####"),
        ("hash", "####\t86"),
    ],
)
def test_no_mark_or_several_or_a_broken_one_is_no_answer(rule: str, text: str) -> None:
    assert extract_answer(text, rule=rule) is None
    assert grade("integer", text, "86", extraction=rule).outcome is Outcome.UNPARSEABLE


@pytest.mark.parametrize("rule", RULES)
@given(SCRATCHPADS)
def test_no_scratchpad_changes_the_answer_under_any_rule(rule: str, scratchpad: str) -> None:
    assert list(RULES) == list(EXTRACTION_RULES)
    assert extract_answer(f"<scratch>{scratchpad}</scratch>{RULES[rule]}", rule=rule) == "86"
    assert extract_answer(f"{RULES[rule]}<scratch>{scratchpad.replace('</scratch>', '')}", rule=rule) is None


@pytest.mark.parametrize("rule", RULES)
@given(SCRATCHPADS)
def test_an_answer_is_a_piece_of_the_text_after_the_scratchpad(rule: str, response: str) -> None:
    answer = extract_answer(response, rule=rule)
    assert answer is None or (answer == answer.strip() != "" and answer in response.rpartition("</scratch>")[2])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("piece", ["\\boxed{", "{", "\\", "<answer>", "#", "#### ", "####", "</scratch>", "<scratch>"])
def test_a_million_characters_are_cut_in_a_moment(rule: str, piece: str) -> None:
    text = piece * (10**6 // len(piece))
    start = time.process_time()
    extract_answer(text, rule=rule)
    assert time.process_time() - start < 2


def test_an_unknown_rule_is_named_with_those_that_are_known() -> None:
    line = "^unknown extraction rule 'box'; known: tags, boxed, answer, hash$"
    with pytest.raises(BadOptions, match=line):
        extract_answer("86", rule="box")
    with pytest.raises(ValueError, match=line):
        grade("integer", "86", "86", extraction="box")

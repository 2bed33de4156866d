"""Is it the expected output? A table for every mode, and properties against Python's own reading of a literal."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import BadOptions, GoldAnswerError, Outcome, check_gold, check_options, grade
from reward.compare import MODES, compare
from reward.literal import MAX_CHARS

RIGHT, WRONG, UNREAD = Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE
CASES = {
    "exact": [
        ("1\n", "1\n", RIGHT),
        ("1", "1\n", WRONG),
        ("1\r\n", "1\n", WRONG),
        ("e\u0301", "\u00e9", WRONG),
    ],
    "lines": [
        ("1\n2", "1\n2\n", RIGHT),
        ("1 \r\n2\t\r\n\n\n", "1\n2", RIGHT),
        ("", "\n \n", RIGHT),
        (" 1\n2", "1\n2", WRONG),
        ("1\n\n2", "1\n2", WRONG),
        ("1", "1\n2", WRONG),
        ("1\n2\n3", "1\n2", WRONG),
        ("2\n1", "1\n2", WRONG),
        ("1 2", "1\n2", WRONG),
        ("1.0", "1", WRONG),
        ("1\u00a0", "1", WRONG),
        ("1\x0b", "1", RIGHT),
        ("1\u20282", "1\n2", WRONG),
        ("1\r2", "1\n2", WRONG),
        ("\n1", "1", WRONG),
    ],
    "unordered_lines": [
        ("2\n1\n", "1\n2", RIGHT),
        ("1\n1\n2", "1\n2\n2", WRONG),
        ("1\n2\n2", "1\n2", WRONG),
        ("1\n2", "1\n2\n2", WRONG),
    ],
    "tokens": [
        ("1  2\n3", "1 2 3", RIGHT),
        ("1 2", "1 2 3", WRONG),
        ("1 2 3 4", "1 2 3", WRONG),
        ("3 2 1", "1 2 3", WRONG),
        ("0.3333333", "0.33333333333", RIGHT),
        ("0.3334", "0.33333333333", WRONG),
        ("1", "1.0", RIGHT),
        ("1.0", "1", WRONG),
        ("007", "7", WRONG),
        ("1e0", "1", WRONG),
        ("10", "1e1", RIGHT),
        ("9007199254740993", "9007199254740992", WRONG),
        ("9007199254740993.0", "9007199254740992", WRONG),
        ("nan", "nan", RIGHT),
        ("nan", "1.0", WRONG),
        ("1.0", "nan", WRONG),
        ("inf", "1e400", WRONG),
        ("1_0.0", "10.0", WRONG),
        ("\uff11.0", "1.0", WRONG),
        ("0x1", "1.0", WRONG),
        ("1.0\u00a0", "1.0", WRONG),
        ("", "", RIGHT),
    ],
    "number": [
        ("86", "86", RIGHT),
        (" 086\n", "86", RIGHT),
        ("86.0", "86", RIGHT),
        ("86.0000000001", "86", WRONG),
        ("86.0000000001", "86.0", RIGHT),
        ("86.1", "86.0", WRONG),
        ("1e400", "1e400", RIGHT),
        ("0", "0.0000000001", RIGHT),
        ("0", "0.00000001", WRONG),
        ("86 87", "86", UNREAD),
        ("", "86", UNREAD),
        ("nan", "86", WRONG),
        ("nan", "nan", RIGHT),
        ("1", "nan", WRONG),
        ("inf", "-inf", WRONG),
        ("NaN", "nan", UNREAD),
        ("1_0", "10", UNREAD),
        ("\u0661", "1", UNREAD),
        ("0x10", "16", UNREAD),
        ("1/2", "0.5", UNREAD),
        ("1e99999", "1.0", UNREAD),
    ],
    "json": [
        ('{"a": [1, 2.50, null]}', '{"a":[1,2.5,null]}', RIGHT),
        ('{"b": 1, "a": 2}', '{"a": 2, "b": 1}', RIGHT),
        ("true", "1", WRONG),
        ("1.0", "1", WRONG),
        ("0", "false", WRONG),
        ("0.1000000001", "0.1", WRONG),
        ("[1]", "[1, 1]", WRONG),
        ("[1, 2]", "[2, 1]", WRONG),
        ('{"a": 1, "a": 1}', '{"a": 1}', UNREAD),
        ("NaN", "1", UNREAD),
        ("[Infinity]", "1", UNREAD),
        ("1e999", "1", UNREAD),
        ("{'a': 1}", '{"a": 1}', UNREAD),
        ("1 2", "1", UNREAD),
        ("", "1", UNREAD),
        ('"\\u0031"', '"1"', RIGHT),
        ("9" * 5000, "1", UNREAD),
    ],
    "value": [
        ("[1, 2.5, None, 'a']", '[1,2.5,None,"a"]', RIGHT),
        ("{'b': 1, 'a': 2}", "{'a': 2, 'b': 1}", RIGHT),
        ("{2, 1}", "{1, 2}", RIGHT),
        ("0.30000000000000004", "0.3", RIGHT),
        ("0.31", "0.3", WRONG),
        ("[0.30000000000000004]", "[0.3]", RIGHT),
        ("{0.30000000000000004}", "{0.3}", WRONG),
        ("True", "1", WRONG),
        ("[True]", "[1]", WRONG),
        ("{True}", "{1}", WRONG),
        ("{True: 0}", "{1: 0}", WRONG),
        ("{(1, True)}", "{(1, 1)}", WRONG),
        ("1.0", "1", WRONG),
        ("1", "1.0", WRONG),
        ("(1, 2)", "[1, 2]", WRONG),
        ("(1)", "1", RIGHT),
        ("(1,)", "(1, 1)", WRONG),
        ("set()", "set()", RIGHT),
        ("{}", "set()", WRONG),
        ("frozenset({1})", "{1}", WRONG),
        ("b'a'", "'a'", WRONG),
        ("b'\\xff'", "b'\\377'", RIGHT),
        ("nan", "nan", RIGHT),
        ("[nan]", "[nan]", RIGHT),
        ("inf", "nan", WRONG),
        ("-inf", "inf", WRONG),
        ("-0.0", "0.0", RIGHT),
        ("(1+2j)", "(1+2j)", RIGHT),
        ("(1-2j)", "(1+2j)", WRONG),
        ("1j", "1j", RIGHT),
        ("(nan-2j)", "(nan-2j)", RIGHT),
        ("{(1, nan)}", "{(1, nan)}", RIGHT),
        ("'\\n'", "'\\x0a'", RIGHT),
        ("[1, 2", "[1, 2]", UNREAD),
        ("[1, 2] ", "[1, 2]", RIGHT),
        ("[1,\r\n 2]", "[1, 2]", RIGHT),
        ("1 + 1", "2", UNREAD),
        ("print(1)", "1", UNREAD),
        ("1_0", "10", UNREAD),
        ("0x10", "16", UNREAD),
        ("\uff11", "1", UNREAD),
        ("1e999", "1.0", UNREAD),
        ("[1] # or 2", "[1]", UNREAD),
        ("1; 2", "1", UNREAD),
    ],
}


@pytest.mark.parametrize(("mode", "actual", "expected", "outcome"), [(m, *case) for m in CASES for case in CASES[m]])
def test_a_table_of_outputs(mode: str, actual: str, expected: str, outcome: Outcome) -> None:
    assert compare(actual, expected, mode=mode) is outcome


def test_every_mode_has_a_table() -> None:
    assert list(MODES) == ["exact", "lines", "unordered_lines", "tokens", "number", "json", "value"]
    assert set(MODES) == set(CASES)


@pytest.mark.parametrize("mode", ["tokens", "number", "value"])
def test_tolerances_are_options_and_exact(mode: str) -> None:
    assert compare("1.5", "1.0", mode=mode, abs_tol="0.5") is RIGHT
    assert compare("1.75", "1.0", mode=mode, abs_tol="0.5") is WRONG
    assert compare("150.0", "100.0", mode=mode, abs_tol=0, rel_tol=0.5) is RIGHT
    assert compare("100.0", "150.0", mode=mode, abs_tol=0, rel_tol="0.33") is WRONG
    assert compare("1.0000000001", "1.0", mode=mode, abs_tol=0, rel_tol=0) is WRONG


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("number", "x"),
        ("number", ""),
        ("number", "1 2"),
        ("json", "{'a': 1}"),
        ("json", "NaN"),
        ("value", "f(x)"),
        ("value", ""),
    ],
)
def test_an_expected_output_that_the_mode_cannot_read_is_an_error_of_the_data(mode: str, expected: str) -> None:
    with pytest.raises(GoldAnswerError):
        compare("1", expected, mode=mode)
    with pytest.raises(GoldAnswerError):
        check_gold("program_output", expected, mode=mode)


def test_bad_options_are_named() -> None:
    with pytest.raises(BadOptions, match="unknown comparison mode 'set'; known: exact, lines"):
        compare("1", "1", mode="set")
    with pytest.raises(BadOptions, match="option abs_tol is -1"):
        check_options("program_output", {"abs_tol": -1})


def test_white_space_around_an_answer_is_no_part_of_it_nor_of_the_output() -> None:
    gold = "  *\n ***\n"
    assert grade("program_output", f"<scratch>a</scratch>\n{gold}", gold).outcome is RIGHT
    assert grade("program_output", f"<scratch>a</scratch>\n{gold}", gold, mode="exact").outcome is RIGHT
    with pytest.raises(GoldAnswerError, match="is empty"):
        check_gold("program_output", " \n")


# Whole numbers that share a hash: the worst that a set can be given.
CLASHES = ",".join(str(i * (2**61 - 1)) for i in range(1, 3000))
BOMBS = [
    *[
        "[" * MAX_CHARS,
        "(" * 10**6,
        "{" * MAX_CHARS,
        "'" + "\\" * MAX_CHARS,
        "1," * (MAX_CHARS // 2),
        "[1" + ",1" * 32000 + "]",
    ],
    *["-" * MAX_CHARS, "9" * MAX_CHARS, "0." + "9" * 60000, "1e" * 30000, "'" + "a" * 65000 + "'", "'" * MAX_CHARS],
    *[
        "'" + "\\x41" * 16000 + "'",
        "{" + CLASHES[:65000].rpartition(",")[0] + "}",
        "[[" * 32000,
        "nan " * 16000,
        "\n" * MAX_CHARS,
    ],
    *[
        "1e400 " * 10000,
        "1e-400 " * 9000,
        ("9" * 3999 + " ") * 16,
        '{"a":' * 10**4,
        "[" * 10**5 + "]" * 10**5,
        '"' * MAX_CHARS,
    ],
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bomb", range(len(BOMBS)))
def test_the_worst_output_takes_a_moment(mode: str, bomb: int) -> None:
    expected = {"number": "1.5", "json": "[1.5]", "value": "[1.5]", "tokens": "0.5 " * 10000}.get(mode, "1.5")
    start = time.process_time()
    assert compare(BOMBS[bomb], expected, mode=mode) in (WRONG, UNREAD)
    assert time.process_time() - start < 2


@given(st.text(max_size=30), st.sampled_from([*MODES]))
def test_any_output_has_a_verdict_and_is_itself(text: str, mode: str) -> None:
    expected = {"number": "1.5", "json": "[1, 2]", "value": "[1, 2]"}.get(mode, "1 2")
    assert compare(text, expected, mode=mode) in (RIGHT, WRONG, UNREAD)
    try:
        assert compare(text, text, mode=mode) is RIGHT
    except GoldAnswerError:
        assert mode in ("number", "json", "value")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_is_itself_however_it_is_written(value: Any) -> None:
    assert compare(json.dumps(value, indent=1), json.dumps(value), mode="json") is RIGHT
    assert compare(json.dumps(value, ensure_ascii=False), json.dumps(value), mode="json") is RIGHT
    assert compare(json.dumps([value]), json.dumps(value), mode="json") is WRONG

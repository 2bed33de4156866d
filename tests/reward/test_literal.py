"""Plain data in Python's spelling: what is read, Python reads the same, and nothing is run."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward import Outcome
from reward.asserts import spell
from reward.compare import compare, parse_json, same_value
from reward.literal import MAX_CHARS, MAX_DEPTH, NotLiteral, parse_literal

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers()
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.binary(max_size=8)
HASHABLE = st.deferred(
    lambda: st.recursive(
        SCALARS | TEXTS,
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
        max_leaves=6,
    )
)
PLAIN = st.deferred(
    lambda: st.recursive(
        HASHABLE,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(HASHABLE, inner, max_size=3)
            | st.sets(HASHABLE, max_size=3)
        ),
        max_leaves=8,
    )
)
DAMAGED = st.deferred(
    lambda: PLAIN.map(repr).flatmap(lambda t: st.integers(0, len(t)).map(lambda cut: t[:cut] + t[cut + 1 :]))
)


@given(PLAIN)
def test_what_repr_writes_is_read_back(value: Any) -> None:
    read = parse_literal(repr(value))
    assert same_value(read, value, 0, 0)
    assert compare(repr(value), repr(value), mode="value") is Outcome.CORRECT


@given(PLAIN)
def test_what_spell_writes_python_reads_back(value: Any) -> None:
    assert same_value(eval(spell(value)), value, 0, 0)  # noqa: S307 (our own text)
    assert spell(value).isascii()


@given(PLAIN, PLAIN)
def test_values_of_different_spelling_are_not_the_same(one: Any, other: Any) -> None:
    if same_value(one, other, 0, 0):
        assert type(one) is type(other)
        assert one == other or "nan" in repr(one)


@given(
    st.text(max_size=20) | st.text(alphabet="[](){},:'\"\\ \n0123456789+-.ejbxuNTrue_setfroz#", max_size=30) | DAMAGED
)
def test_what_is_read_python_reads_the_same(text: str) -> None:
    try:
        value = parse_literal(text)
    except NotLiteral:
        return
    if not any(name in text for name in ("inf", "nan", "set")):
        assert repr(value) == repr(ast.literal_eval(text.strip()))


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            " ",
            "[",
            "]",
            "[,]",
            "[1,,2]",
            "(,)",
            "{,}",
            "{1: 2, 3}",
            "{1, 2: 3}",
            "{:}",
            "{1:}",
            "[1 2]",
            "1,",
            ",",
        ],
        *[
            "'a' 'b'",
            "'a'\n'b'",
            "r'a'",
            "f'a'",
            "u'a'",
            "'''a'''",
            "'a",
            "'\n'",
            "'\\d'",
            "'\\N{DIGIT ONE}'",
            "'\\ud800'",
            "'\udc9d'",
            "'\x01\x00&b'",
            "'\r'",
            "'\x7f'",
        ],
        *["'\\x1'", "'\\u123'", "'\\U00110000'", "b'\u00e9'", "b'\\u0031'", "b'\\400'", "'\\", "'\\'"],
        *[
            "007",
            "1_0",
            "0x1",
            "0b1",
            "0o7",
            "+1",
            "--1",
            "- -1",
            "1e",
            "1.2.3",
            "1ee1",
            "1jj",
            "1e99999",
            "e1",
            "1L",
            "1__",
        ],
        *["{[1]}", "{{}: 1}", "{set()}", "set(1)", "set([1], [2])", "set", "frozenset", "dict()", "list()", "int(1)"],
        *[
            "(1+2)",
            "1+2j",
            "(1+2j",
            "(1j+2)",
            "('a'+2j)",
            "Nones",
            "none",
            "true",
            "...",
            "Ellipsis",
            "nan()",
            "x",
            "*a",
        ],
        *["[*[1]]", "{**{}}", "lambda: 1", "[x for x in y]", "1 if 1 else 2", "not 1", "~1", "1.a", "[1][0]", "'a'.b"],
        *["\u00a01", "1\u2028", "\uff11", "\u0661", "\x0c1", "#", "1#", "\x00", "\ufeff1"],
    ],
)
def test_what_is_no_plain_data_is_refused(text: str) -> None:
    with pytest.raises(NotLiteral):
        parse_literal(text)


def test_the_longest_and_deepest_literal() -> None:
    deep = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    parse_literal(deep)
    for text in (f"[{deep}]", "[" * 10**4, "1" * 4001, " " * (MAX_CHARS + 1)):
        with pytest.raises(NotLiteral):
            parse_literal(text)
    assert parse_literal("1" * 4000) == int("1" * 4000)
    parse_json(deep)
    with pytest.raises(NotLiteral, match="deep"):
        parse_json(f"[{deep}]")

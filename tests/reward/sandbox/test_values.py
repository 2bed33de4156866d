"""Values go through text and come out as they were, and nothing else comes out."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.sandbox.values import MAX_DEPTH, decode, encode

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers().map(lambda n: n << 15000)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    return type(left) is type(right) and encode(left) == encode(right)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert same(decode(encode(value)), value)
    assert decode(encode(value)) == value


@settings(max_examples=150, deadline=None)
@given(
    st.text()
    | plain.map(encode).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at] + text[at + 1 :]))
)
def test_any_other_text_is_refused_or_is_a_value_in_its_own_right(text: str) -> None:
    try:
        value = decode(text)
    except ValueError:
        return
    assert encode(value) == text


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, -0.0, 5e-324, complex(-0.0, math.inf), "\ud800", [1 << 40000]],
    ids=lambda value: type(value).__name__,
)
def test_odd_values_come_back(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_nan_comes_back() -> None:
    assert math.isnan(decode(encode(math.nan)))
    assert [math.isnan(x) for x in decode(encode([math.nan, complex(math.nan, 1).real]))] == [True, True]


def test_types_that_compare_equal_stay_apart() -> None:
    alike = [1, True, 1.0, complex(1)]
    assert len({encode(value) for value in alike}) == 4
    assert len({encode(value) for value in ([], (), set(), frozenset(), {}, "", b"", None, False, 0)}) == 10
    assert encode({3, 1, 2}) == encode({2, 1, 3})


class Three(IntEnum):
    THREE = 3


class Sub(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("value", [Three.THREE, Sub(), object(), len, [Three.THREE], {1: Sub()}, range(3), bytearray()])
def test_what_is_not_plain_is_an_error(value: object) -> None:
    with pytest.raises(TypeError, match="which is not plain data"):
        encode(value)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_depth_is_limited_on_both_sides() -> None:
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(TypeError, match="nested more than"):
        encode(nested(MAX_DEPTH + 1))
    deep = '["l",[' * (MAX_DEPTH + 1) + "]]" * (MAX_DEPTH + 1)
    for text in (deep, "[" * 60000, '["l",[' * 9000 + "]]" * 9000):
        with pytest.raises(ValueError, match=r"encoded value|Expecting"):
            decode(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " null",
        "null\n",
        "nullnull",
        "1",
        "1.5",
        "NaN",
        "{}",
        "[]",
        '["q",[]]',
        '["i",3]',
        '["i","0x3"]',
        '["i","03"]',
        '["i","F"]',
        '["i","-0"]',
        '["i","1_0"]',
        '["f","1.5"]',
        '["f","0X1p0"]',
        '["f","-nan"]',
        '["f",[]]',
        '["b","0"]',
        '["b","zz"]',
        '["c","nan"]',
        '["l",[],[]]',
        '["l",null]',
        '["s",[["l",[]]]]',
        '["s",[null,null]]',
        '["d",[[null]]]',
        '["d",["ab"]]',
        '["d",[[null,null],[null,true]]]',
        '["l",[null, null]]',
        '"\u00e9"',
        '[["l"],[]]',
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"encoded value|Expecting|Extra data"):
        decode(text)


def alike(number: int) -> list[int]:
    """Keys that all have the hash 5."""
    return [5 + n * (2**61 - 1) for n in range(number)]


@pytest.mark.parametrize("make", [set, frozenset, dict.fromkeys, lambda keys: {(key,) for key in keys}])
def test_keys_of_one_hash_are_refused_where_they_are_many(make: Any) -> None:
    assert decode(encode(make(alike(16)))) == make(alike(16))
    with pytest.raises(ValueError, match="more than 16 keys have the same hash"):
        decode(encode(make(alike(17))))


def test_a_huge_result_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="characters; at most"):
        decode('"' + "x" * (1 << 26) + '"')


@pytest.mark.parametrize(
    "value", [Counter("aab"), OrderedDict(b=1, a=2), defaultdict(list, a=[1]), [Counter()], {"x": OrderedDict()}]
)
def test_a_dictionary_of_the_standard_library_is_the_dict_that_it_equals(value: Any) -> None:
    back = decode(encode(value))
    assert back == value
    assert "Counter" not in repr(back)
    assert "dict(" not in repr(back).lower()


class Liar(Counter[str]):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def test_what_inherits_from_them_has_no_spelling() -> None:
    with pytest.raises(TypeError, match="Liar, which is not plain data"):
        encode(Liar("a"))

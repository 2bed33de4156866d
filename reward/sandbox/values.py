"""Plain values as text, type by type, for the way out of the sandbox.

Written by the program's side, read by ours. Nothing but plain data exists in this text, so a value that claims to equal
everything, or a subclass of `int` with a different `__eq__`, has no spelling and is an error of the program.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict, defaultdict
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_BYTES = 1 << 26
# Bound now: the encoder runs after the program, which may have put other things under these names.
_type, _len, _sorted, _isnan, _dumps, _TypeError = type, len, sorted, math.isnan, json.dumps, TypeError
_bool, _int, _float, _complex, _str, _bytes = bool, int, float, complex, str, bytes
_set, _frozenset, _dict = set, frozenset, dict
_TAGS: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z", dict: "d"}
_MAKERS: dict[str, Any] = {tag: kind for kind, tag in _TAGS.items()}
# They equal the dict of their items, and programs return them for it.
_DICTS: tuple[type, ...] = (Counter, defaultdict, OrderedDict)
_items_of = dict.items
_MOST_ALIKE = 16
_INT = re.compile(r"-?[1-9a-f][0-9a-f]*|0")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def encode(value: object) -> str:
    """The text of a plain value, in ASCII; equal values of the same types have the same text.

    Plain are None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict, of exactly these types.
    A `Counter`, `defaultdict` or `OrderedDict` is written as the dict that it equals.

    Raises:
        TypeError: for anything else, anywhere inside, and for more than `MAX_DEPTH` levels.

    >>> encode([1, True, "é", {2.5: None}])
    '["l",[["i","1"],true,"\\\\u00e9",["d",[[["f","0x1.4000000000000p+1"],null]]]]]'
    """
    return _encode(value, 0)


def _encode(value: Any, depth: int) -> str:
    kind = _type(value)
    if value is None:
        return "null"
    if kind is _bool:
        return "true" if value else "false"
    if kind is _int:
        return f'["i","{value:x}"]'
    if kind is _str:
        return _dumps(value)
    if kind is _float:
        return f'["f","{_float_text(value)}"]'
    if kind is _complex:
        return f'["c","{_float_text(value.real)}","{_float_text(value.imag)}"]'
    if kind is _bytes:
        return f'["b","{value.hex()}"]'
    if kind in _DICTS:
        kind = _dict
    if kind not in _TAGS:
        raise _TypeError(f"the value holds a {kind.__name__}, which is not plain data")
    if depth >= MAX_DEPTH:
        raise _TypeError(f"the value is nested more than {MAX_DEPTH} deep")
    return f'["{_TAGS[kind]}",[{",".join(_items(kind, value, depth + 1))}]]'


def _items(kind: type, value: Any, depth: int) -> list[str]:
    if kind is _dict:
        return [f"[{_encode(key, depth)},{_encode(item, depth)}]" for key, item in _items_of(value)]
    items = [_encode(item, depth) for item in value]
    return _sorted(items) if kind is _set or kind is _frozenset else items


def _float_text(value: float) -> str:
    return "nan" if _isnan(value) else value.hex()


def decode(text: str) -> Any:
    """The value that `encode` wrote.

    Raises:
        ValueError: unless the text is exactly one document as `encode` writes it, white space included; and for sets
            and dicts of many keys with the same hash.

    >>> decode('["t",[["i","ff"],"x"]]')
    (255, 'x')
    """
    if _len(text) > MAX_BYTES:
        raise ValueError(f"result of {len(text)} characters; at most {MAX_BYTES} are read")
    try:
        document = json.loads(text, parse_int=_refuse, parse_float=_refuse, parse_constant=_refuse)
        value = _decode(document, 0)
        again = _encode(value, 0)
    except (RecursionError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"not an encoded value: {type(error).__name__}") from None
    if again != text:
        # Also catches what has no value of its own: repeated keys, upper-case digits, spaces.
        raise ValueError("not an encoded value: another spelling of one")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"not an encoded value: bare {text[:20]}")


def _decode(node: Any, depth: int) -> Any:
    if node is None or isinstance(node, (bool, str)):
        return node
    if not isinstance(node, list) or not node or depth > MAX_DEPTH:
        raise ValueError("not an encoded value: no tag, or too deep")
    tag, *rest = node
    if tag == "c" and len(rest) == 2:
        return complex(_read_float(rest[0]), _read_float(rest[1]))
    if len(rest) != 1 or not isinstance(tag, str):
        raise ValueError("not an encoded value: a tag with the wrong contents")
    return _decode_tagged(tag, rest[0], depth + 1)


def _decode_tagged(tag: str, body: Any, depth: int) -> Any:
    if tag in ("i", "f", "b"):
        return _decode_scalar(tag, body)
    if not isinstance(body, list):
        raise ValueError("not an encoded value: a container of no list")
    if tag == "d":
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in body):
            raise ValueError("not an encoded value: a dict of no pairs")
        keys = [_decode(key, depth) for key, _ in body]
        _refuse_alike(keys)
        return dict(zip(keys, [_decode(item, depth) for _, item in body], strict=True))
    make, items = _MAKERS[tag], [_decode(item, depth) for item in body]
    if make is set or make is frozenset:
        _refuse_alike(items)
    return make(items)


def _refuse_alike(keys: list[Any]) -> None:
    """Many keys of the same hash, as nobody has by accident, take time that grows with their number's square."""
    hashes = sorted(map(hash, keys))
    if any(one == other for one, other in zip(hashes, hashes[_MOST_ALIKE:], strict=False)):
        raise ValueError(f"not a value to be read: more than {_MOST_ALIKE} keys have the same hash")


def _decode_scalar(tag: str, body: Any) -> int | float | bytes:
    if not isinstance(body, str):
        raise ValueError("not an encoded value: a scalar of no text")
    if tag == "f":
        return _read_float(body)
    if tag == "i" and _INT.fullmatch(body):
        return int(body, 16)
    if tag == "b" and _HEX.fullmatch(body):
        return bytes.fromhex(body)
    raise ValueError("not an encoded value: misspelt scalar")


def _read_float(text: str) -> float:
    return float("nan") if text == "nan" else float.fromhex(text)

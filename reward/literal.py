"""Plain data as Python writes it, read by a small parser of our own: bounded time and depth, nothing is evaluated.

`ast.literal_eval` is not used on a model's text: it warns about escapes, runs out of stack, has other limits.
"""

from __future__ import annotations

import re
from typing import Any

MAX_CHARS = 65_536
MAX_DEPTH = 50
MAX_DIGITS = 4000

# What a `repr` of plain data is made of. A number takes the letters after it along, so that `1_0` and `0x1` stay one
# token, and are refused.
_TOKEN = re.compile(
    r"""[ \t\n]*(?:
      (?P<string>[bB]?(?:'(?:[^'\\\n]|\\[^\n])*'|"(?:[^"\\\n]|\\[^\n])*"))
    | (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[A-Za-z0-9_.]*)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>[][(){},:+-])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"(?P<integer>0|[1-9][0-9]*)|(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]{1,4})?")
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_NOT_SOURCE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SINGLE = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_NOT_FINITE = ("inf", "nan", "infj", "nanj")
_NAMED = {"None": None, "True": True, "False": False}


class NotLiteral(ValueError):  # noqa: N818 (says what the text is)
    """The text is not plain data in Python's spelling, or too long or too deep."""


def parse_literal(text: str) -> Any:
    """The value that a Python literal of plain data spells.

    None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict, at most `MAX_DEPTH` deep, as
    `repr` writes them: `set()`, `frozenset({1})`, `inf`, `nan`, `-1.5e-07`, `(1+2j)`. Both quotes and the escapes of
    `repr` and JSON are read, and octal ones. Python's own rules hold for equal keys: the last one wins.

    Refused: comments, `1_0`, `0x1`, `007`, a `+` sign, raw, formatted, triple-quoted and adjacent strings, unknown
    escapes, `\\N{...}`, surrogates, numbers over `MAX_DIGITS` digits, floats that overflow (`1e999`), arithmetic, and
    anywhere in the text ASCII control characters other than tab and newline.

    Raises:
        NotLiteral: if the text is anything else.

    >>> parse_literal("{'a': [1, 2.50, (None,)], 'b': set()}")
    {'a': [1, 2.5, (None,)], 'b': set()}
    >>> parse_literal("__import__('os')")
    Traceback (most recent call last):
    reward.literal.NotLiteral: unknown name '__import__'
    """
    if len(text) > MAX_CHARS:
        raise NotLiteral(f"longer than {MAX_CHARS} characters")
    if _NOT_SOURCE.search(text):
        raise NotLiteral("a control character, or half of a surrogate pair")
    parser = _Parser(_tokens(text))
    value = parser.value(0)
    parser.expect("end")
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    place = 0
    while not tokens or tokens[-1][0] != "end":
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise NotLiteral(f"unexpected {text[place : place + 10]!r}")
        kind = match.lastgroup
        tokens.append((match[kind] if kind == "mark" else kind, match[kind]))
        place = match.end()
    return tokens


class _Parser:
    """Recursive descent, one token ahead. The kind of a mark is the mark itself."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._next = tokens, 0

    def peek(self) -> str:
        return self._tokens[self._next][0]

    def take(self) -> tuple[str, str]:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def expect(self, kind: str) -> str:
        found, text = self.take()
        if found != kind:
            raise NotLiteral(f"expected {kind!r}, found {text[:20]!r}")
        return text

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise NotLiteral(f"more than {MAX_DEPTH} deep")
        kind, text = self.take()
        if kind in ("number", "-") or (kind == "name" and text in _NOT_FINITE):
            return self._number(kind, text)
        if kind == "string":
            return _string(text)
        if kind == "[":
            return self._items("]", depth)[0]
        if kind == "(":
            return self._parenthesis(depth)
        if kind == "{":
            return self._braces(depth)
        if kind == "name" and text in ("set", "frozenset"):
            return self._called(text, depth)
        if kind == "name" and text in _NAMED:
            return _NAMED[text]
        raise NotLiteral(f"unknown name {text[:20]!r}" if kind == "name" else f"unexpected {text[:20]!r}")

    def _number(self, kind: str, text: str) -> int | float | complex:
        negative = kind == "-"
        if negative:
            kind, text = self.take()
        if kind not in ("number", "name"):
            raise NotLiteral("a sign without a number")
        value = _number(text)
        return -value if negative else value

    def _items(self, close: str, depth: int) -> tuple[list[Any], bool]:
        """Values up to the closing mark, and whether a comma stood before it."""
        items: list[Any] = []
        comma = False
        while self.peek() != close:
            if items and not comma:
                raise NotLiteral("expected a comma")
            items.append(self.value(depth + 1))
            comma = self.peek() == ","
            if comma:
                self.take()
        self.take()
        return items, comma

    def _parenthesis(self, depth: int) -> Any:
        """A tuple, a value in parentheses, or `(1+2j)`."""
        if self.peek() == ")":
            self.take()
            return ()
        first = self.value(depth + 1)
        if self.peek() in "+-" and type(first) in (int, float):
            sign = self.take()[0]
            imaginary = self._number(*self.take())
            self.expect(")")
            if type(imaginary) is not complex:
                raise NotLiteral("arithmetic is not data")
            return complex(first, imaginary.imag if sign == "+" else -imaginary.imag)
        comma = self.peek() == ","
        if comma:
            self.take()
            return (first, *self._items(")", depth)[0])
        self.expect(")")
        return first

    def _braces(self, depth: int) -> Any:
        """A set or a dictionary; `{}` is a dictionary."""
        pairs: dict[Any, Any] = {}
        keys: list[Any] = []
        comma = True
        while self.peek() != "}":
            if not comma:
                raise NotLiteral("expected a comma")
            key = _hashable(self.value(depth + 1))
            if self.peek() == ":":
                self.take()
                pairs[key] = self.value(depth + 1)
            else:
                keys.append(key)
            comma = self.peek() == ","
            if comma:
                self.take()
        self.take()
        if keys and pairs:
            raise NotLiteral("neither a set nor a dictionary")
        return set(keys) if keys else pairs

    def _called(self, name: str, depth: int) -> Any:
        """`set()`, `frozenset()`, `frozenset({...})`, and the same of a list."""
        self.expect("(")
        items, _ = self._items(")", depth)
        if len(items) > 1 or (items and type(items[0]) not in (set, list)):
            raise NotLiteral(f"{name}(...) of something else than one set or list")
        values = [_hashable(item) for item in (items[0] if items else ())]
        return set(values) if name == "set" else frozenset(values)


def _number(text: str) -> int | float | complex:
    if text in _NOT_FINITE:
        return float(text) if text[-1] != "j" else complex(0.0, float(text[:-1]))
    imaginary = text.endswith("j")
    match = _NUMBER.fullmatch(text[:-1] if imaginary else text)
    if match is None or len(text) > MAX_DIGITS:
        raise NotLiteral(f"{text[:20]!r} is not a plain number")
    if match["integer"] and not imaginary:
        return int(text)
    value = float(match[0])
    if value in (float("inf"), float("-inf")):
        raise NotLiteral(f"{text[:20]!r} overflows")
    return complex(0.0, value) if imaginary else value


def _string(text: str) -> str | bytes:
    raw = text[0] in "bB"
    body = text[2:-1] if raw else text[1:-1]
    value = _ESCAPE.sub(lambda match: _escaped(match[0], raw), body)
    if not raw:
        return value
    if not body.isascii() or any(ord(letter) > 255 for letter in value):
        raise NotLiteral("bytes hold ASCII characters, and escapes up to 255")
    return value.encode("latin-1")


def _escaped(escape: str, raw: bool) -> str:
    letter = escape[1]
    if letter in _SINGLE:
        return _SINGLE[letter]
    if letter in "01234567":
        return chr(int(escape[1:], 8))
    if letter in ("x" if raw else "xuU") and len(escape) > 2:
        code = int(escape[2:], 16)
        if code < 0x110000 and not 0xD800 <= code < 0xE000:
            return chr(code)
    raise NotLiteral(f"unknown escape {escape[:10]!r}")


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError as error:
        raise NotLiteral(str(error)) from error
    return value

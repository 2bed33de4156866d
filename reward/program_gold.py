"""The tests that a written program has to pass, as the data states them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from reward import compare
from reward.asserts import Assertion, names_bound_by, parse_assertion
from reward.compare import parse_json
from reward.literal import NotLiteral
from reward.sandbox import Limits
from reward.types import GoldAnswerError

MAX_CHARS = 1 << 24
MAX_SETUP = 1 << 15
_TESTS_KEYS = frozenset({"tests", "reference"})
_ASSERTS_KEYS = frozenset({"asserts", "setup", "entry", "reference"})


@dataclass(frozen=True, slots=True)
class InputOutput:
    """What the program reads, and what it is to print."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Gold:
    """The tests of one problem: all of one kind."""

    setup: str
    tests: tuple[InputOutput | Assertion, ...]
    reference: str


@lru_cache(maxsize=512)
def read_gold(gold: str, mode: str) -> Gold:
    """The gold answer taken apart.

    JSON: `{"tests": [{"stdin": "1 2", "stdout": "3"}, ...]}` or `{"asserts": ["assert f(1) == 2", ...]}`; the second
    may have a `"setup"` (source that runs before the program, and before each check) and an `"entry"` (the one function
    that is called). Both may have a `"reference"`, a program that passes.

    Raises:
        GoldAnswerError: if it is anything else, or one of its tests cannot be used.
    """
    try:
        value = parse_json(gold, max_chars=MAX_CHARS)
    except NotLiteral as error:
        raise GoldAnswerError.of(gold, f"is not JSON: {error}") from error
    keys = set(value) if isinstance(value, dict) else set()
    if not ({"tests"} <= keys <= _TESTS_KEYS or {"asserts"} <= keys <= _ASSERTS_KEYS):
        raise GoldAnswerError.of(gold, 'is neither {"tests": [...]} nor {"asserts": [...], "setup": ..., "entry": ...}')
    texts = {key: value.get(key, "") for key in ("setup", "entry", "reference")}
    items = value.get("tests", value.get("asserts"))
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(items, list) or not items:
        raise GoldAnswerError.of(gold, "has no tests, or a setup, entry or reference that is no text")
    try:
        tests = _input_outputs(items, mode) if "tests" in keys else _assertions(items, **texts)
    except (TypeError, ValueError) as error:
        if isinstance(error, GoldAnswerError):
            raise
        raise GoldAnswerError.of(gold, f"has a test that cannot be used: {error}") from error
    return Gold(texts["setup"], tests, texts["reference"])


def _input_outputs(items: list[Any], mode: str) -> tuple[InputOutput, ...]:
    tests = tuple(InputOutput(**item) for item in items)
    for test in tests:
        if not isinstance(test.stdin, str) or not isinstance(test.stdout, str):
            raise TypeError("stdin and stdout must be text")
        if len(test.stdin.encode()) > Limits.max_stdin_bytes:
            raise ValueError(f"an input of more than {Limits.max_stdin_bytes} bytes")
        compare.check_expected(test.stdout, mode=mode)
    return tests


def _assertions(items: list[Any], setup: str, entry: str, reference: str) -> tuple[Assertion, ...]:
    if not all(isinstance(item, str) for item in items):
        raise TypeError("asserts must be text")
    if len(setup.encode()) > MAX_SETUP:
        raise ValueError(f"a setup of more than {MAX_SETUP} bytes")
    known = names_bound_by(setup)
    tests = tuple(parse_assertion(item, known=known, entry=entry) for item in items)
    called = frozenset[str]().union(*(test.names for test in tests))
    if reference and not called <= names_bound_by(reference):
        # Else a program could define a checker that the data forgot, and pass everything.
        raise ValueError(f"a call of {min(called - names_bound_by(reference))!r}, which the reference does not define")
    if max(len(test.call.encode()) for test in tests) > Limits.max_source_bytes:
        raise ValueError(f"a call of more than {Limits.max_source_bytes} bytes")
    return tests

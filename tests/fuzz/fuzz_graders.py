"""Coverage-guided fuzzing of what reads a model's text. Not part of the test suite: run it by hand.

    python tests/fuzz/fuzz_graders.py TARGET [libFuzzer options, such as -max_total_time=300]

Needs atheris (`pip install atheris`, Linux). TARGET is one of the functions below, or `all`. What it finds goes into
tests/reward as a case of its own.
"""

from __future__ import annotations

import ast
import json
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parents[2]))
try:
    import atheris
except ImportError:
    sys.exit("fuzz_graders.py needs atheris, which is not installed: pip install atheris (Linux only)")

with atheris.instrument_imports(include=["reward"]):
    from reward import EXTRACTION_RULES, Outcome, extract_answer
    from reward.asserts import spell
    from reward.compare import MODES, compare, parse_json, same_value
    from reward.expression import grade_expression
    from reward.integer import parse_integer
    from reward.literal import NotLiteral, parse_literal
    from reward.maths import NotMaths, grade_math, read
    from reward.number import grade_number, parse_number

SECONDS = 1.0
VERDICTS = (Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE)
PUZZLE = json.dumps({"target": 6, "numbers": [1, 2, 3]})
GOLDS = {"number": "1.5", "json": '[1, 2.5, {"a": null}]', "value": "[1, 2.5, {'a': None}]"}


def extraction(text: str) -> None:
    """An answer is a piece of what follows the last closing tag, and a scratchpad in front does not move it."""
    for rule in EXTRACTION_RULES:
        answer = extract_answer(text, rule=rule)
        after = text.rpartition("</scratch>")[2]
        assert answer is None or (answer == answer.strip() != "" and answer in after)
        if "<scratch>" not in text and "</scratch>" not in text:
            assert extract_answer(f"<scratch>{text}</scratch>{text}", rule=rule) == answer
            assert extract_answer(f"<scratch>{text}", rule=rule) is None


def number(text: str) -> None:
    """What is read is what `Fraction` reads."""
    for options in ({}, {"percent": True, "thousands": True, "exponent": True}):
        value = parse_number(text, **options)
        if value is not None:
            plain = text.replace(",", "")
            assert value == Fraction(plain.rstrip("%")) / (100 if plain.endswith("%") else 1)
        assert grade_number(text, "3/2", tolerance="1e-3", **options).outcome in VERDICTS
    for options in ({}, {"thousands": True}, {"spaced_digits": True}):
        whole = parse_integer(text, **options)
        assert whole is None or whole == int(text.replace(",", "").replace(" ", ""))


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    assert isinstance(node, ast.BinOp)
    left, right = _value(node.left), _value(node.right)
    results: dict[type, Callable[[], Fraction]] = {
        ast.Add: lambda: left + right,
        ast.Sub: lambda: left - right,
        ast.Mult: lambda: left * right,
        ast.Div: lambda: left / right,
    }
    return results[type(node.op)]()


def expression(text: str) -> None:
    """What is correct, Python's own parse of it finds equal."""
    for use in ("all", "any"):
        reward = grade_expression(text, PUZZLE, use=use)
        assert reward.outcome in VERDICTS
        if reward.outcome is Outcome.CORRECT:
            assert _value(ast.parse(text.strip(), mode="eval").body) == 6


def value(text: str) -> None:
    """What is read, Python reads the same; what is read can be spelled, and is itself."""
    try:
        found = parse_literal(text)
    except NotLiteral:
        pass
    else:
        if not any(name in text for name in ("inf", "nan", "set")):
            assert same_value(found, ast.literal_eval(text.strip(" \t\n")), Fraction(0), Fraction(0))
        assert same_value(parse_literal(repr(found)), found, Fraction(0), Fraction(0))
        spell(found)
        assert compare(text, text, mode="value") is Outcome.CORRECT


def document(text: str) -> None:
    """What is read as JSON, `json` reads the same."""
    try:
        found = parse_json(text)
    except NotLiteral:
        return
    assert same_value(found, json.loads(text), Fraction(0), Fraction(0))
    assert compare(text, text, mode="json") is Outcome.CORRECT


def comparison(text: str) -> None:
    """Every mode has a verdict on everything, and only the first half decides it with the second."""
    one, _, other = text.partition("\x00")
    for mode in MODES:
        gold = GOLDS.get(mode, other)
        assert compare(one, gold, mode=mode) in VERDICTS
    if other:
        assert (compare(one, other, mode="exact") is Outcome.CORRECT) == (one == other)
        assert compare(one, other, mode="lines") is compare(other, one, mode="lines")


def maths(text: str) -> None:
    """A plain number is judged without math-verify, and what is correct is the number."""
    reward = grade_math(text, "5")
    assert reward.outcome in VERDICTS
    try:
        reading = read(text)
    except NotMaths:
        assert reward.outcome is Outcome.UNPARSEABLE
        return
    assert (reward.outcome is Outcome.CORRECT) <= (reading.number == 5)


TARGETS = {f.__name__: f for f in (extraction, number, expression, value, document, comparison, maths)}


def main() -> None:
    """Fuzz the target that the command line names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "all"
    if name not in (*TARGETS, "all"):
        sys.exit(f"unknown target {name!r}; known: {', '.join(TARGETS)}, all")
    chosen = [TARGETS[name]] if name in TARGETS else list(TARGETS.values())

    def one_input(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
        for target in chosen:
            start = time.process_time()
            target(text)
            assert time.process_time() - start < SECONDS, f"{target.__name__} took too long"

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

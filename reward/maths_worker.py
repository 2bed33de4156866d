"""The one file that imports math-verify. It runs in the workers of `reward.worker`, never in the training process."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import FiniteSet, nan, zoo

# What a float is rounded to when two are compared: exact to the precision that math-verify computes with.
PLACES = 12
# No unit is left out, no box opened, no equation cut: the answer is one expression, and was taken apart before.
_AS_WRITTEN = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
sys.setrecursionlimit(3000)


@lru_cache(maxsize=512)
def parse(latex: str) -> Any:
    """A sympy object for the whole text. Raises whatever the parser raises.

    `math_verify.parse` is not used: it looks for something that parses anywhere in a text, and may evaluate Python.
    """
    text = normalize_latex(latex, _AS_WRITTEN)
    value = latex2sympy(
        text, is_real=not should_treat_as_complex(text), convert_degrees=False, normalization_config=None
    )
    if value is None or value.has(nan, zoo):
        raise ValueError("undefined")
    return value


def verdict(answer: str, gold: str) -> tuple[str, str]:
    """Outcome and detail; the outcome `gold` if it is the gold answer that cannot be read."""
    try:
        expected = parse(gold)
    except Exception as error:  # noqa: BLE001 (a parser of someone else's raises what it likes)
        return "gold", _line(error)
    try:
        given = parse(answer)
    except Exception as error:  # noqa: BLE001
        return "UNPARSEABLE", _line(error)
    if isinstance(given, FiniteSet) != isinstance(expected, FiniteSet):
        return "WRONG", "one is a set and the other is not"
    # The order matters to math-verify: the gold answer first. It says False where it raises.
    right = verify(expected, given, float_rounding=PLACES, timeout_seconds=None)
    return ("CORRECT" if right is True else "WRONG"), ""


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]

"""Attacks on the compiler, which reads a program before its first line runs."""

from __future__ import annotations

from reward.sandbox import Limits
from tests.reward.sandbox.hostile.case import CRASHED, ENDED, FULL, STARVED, STOPPED, Hostile

_ANY = STARVED | STOPPED | CRASHED | FULL
_LIMITS = Limits(cpu_seconds=0.2, wall_seconds=4)


def _bomb(name: str, source: str, status: frozenset[str] = _ANY) -> Hostile:
    return Hostile(name, source, status, limits=_LIMITS, bare=True)


PROGRAMS = [
    _bomb("a null byte", "print(1)\0print(2)", frozenset({"error"})),
    _bomb("a byte order mark", "\ufeffprint(42)", frozenset({"ok"})),
    _bomb("text in another encoding", "# coding: utf-7\nprint(42)", ENDED),
    _bomb("an encoding that is none", "# coding: rot13\ncevag(42)", frozenset({"error"})),
    _bomb("an encoding with a path in it", "# coding: ../../../tmp/x\nprint(42)", frozenset({"error"})),
    _bomb("two lines of encodings", "# -*- coding: idna -*-\n# coding: mbcs\nprint(42)", ENDED),
    _bomb("half a character", "print('\udcff')", frozenset({"invalid_source"})),
    _bomb("too long a source", "x" * 65537, frozenset({"invalid_source"})),
    _bomb("as long a line as there can be", "x = " + "1+" * 32000 + "1"),
    _bomb("brackets as deep as there can be", "(" * 65000),
    _bomb("brackets that close, too", "[" * 150 + "]" * 150 + "\n" + "f(" * 99 + ")" * 99),
    _bomb("sixty thousand signs", "x = " + "-" * 60000 + "1"),
    _bomb("sixty thousand negations", "x = " + "not " * 15000 + "1"),
    _bomb("a chain of attributes", "x" + ".a" * 30000),
    _bomb("a chain of calls", "x" + "()" * 30000),
    _bomb("lambdas within lambdas", "lambda: " * 8000 + "1"),
    _bomb("conditions within conditions", "1 if 1 else " * 5000 + "1"),
    _bomb("blocks within blocks", "".join(" " * n + "if 1:\n" for n in range(99)) + " " * 99 + "pass"),
    _bomb("loops within loops", "".join(" " * n + f"for i{n} in range(9):\n" for n in range(20)) + " " * 20 + "pass"),
    _bomb("a tower of powers", "x = 9**9**9**9"),
    _bomb("constants that fold to gigabytes", "x = 'x' * 10**10, (0,) * 10**9, 1 << 10**10, b'x' * 2**40, 2**10**9"),
    _bomb("constants that fold a bit at a time", "x = " + "(" * 60 + "('x' * 4096" + " * 4096)" * 60),
    _bomb("a giant f-string", "x = f'" + "{1}" * 20000 + "'"),
    _bomb("f-strings that nest", "x = f'{f\"{1:{1:{1}}}\"}'\n" * 900),
    _bomb("a literal of sixty thousand digits", "x = " + "9" * 60000, FULL | {"error"}),
    _bomb("a float of sixty thousand digits", "x = 0." + "9" * 60000 + "e-99999", ENDED),
    _bomb("thirty thousand names", "global " + ",".join(f"a{n}" for n in range(9000))),
    _bomb("as many arguments", "def f(" + ",".join(f"a{n}" for n in range(8000)) + "): pass"),
    _bomb("comprehensions within comprehensions", "x = " + "[" * 90 + "1" + " for i in range(9)]" * 90),
    _bomb("patterns that multiply", "match 1:\n case " + "|".join(f"[{n},*_]" for n in range(6000)) + ": pass"),
    _bomb("except clauses without end", "try: pass\n" + "except A: pass\n" * 4000),
    _bomb("with statements in a row", "with " + ",".join(["a"] * 4000) + ": pass"),
    _bomb("decorators in a row", "@a\n" * 16000 + "def f(): pass"),
    _bomb("escapes that are none", "x = '" + "\\N{DIGIT ONE}" * 4000 + "\\q" * 2000 + "'"),
    _bomb("an identifier to be normalised", "\ufb01" * 20000 + " = 1"),
    _bomb("a program that compiles itself again", "s = 's = %r; exec(compile(s %% s, s, chr(101)))'; exec(s % s)"),
]
